// Products by a unit that multiplies bfloat16; kernels/kernels.hpp says how float32 comes out of it.
#pragma once

#include <atomic>
#include <vector>

#include "dispatch.hpp"

namespace npconv {

using Unit = Bfloat16x3Kernels;

/// What a thread holds while it multiplies tiles.
class UnitInUse {
   public:
    UnitInUse() { bfloat16x3_kernels()->begin(); }
    ~UnitInUse() { bfloat16x3_kernels()->end(); }
    UnitInUse(const UnitInUse&) = delete;
    UnitInUse& operator=(const UnitInUse&) = delete;
};

/// The images in which some sum was no number, be it because of an infinity on the way: float32 has to make them anew.
/// The others keep theirs, so that no result depends on the images beside it, nor on how they are dealt to threads.
class FailedImages {
   public:
    explicit FailedImages(index_t images) : failed_(static_cast<std::size_t>(images)) {}
    void add(index_t image) { failed_[static_cast<std::size_t>(image)] = true; }
    std::vector<index_t> list() const {
        std::vector<index_t> images;
        for (std::size_t i = 0; i < failed_.size(); ++i) {
            if (failed_[i]) images.push_back(static_cast<index_t>(i));
        }
        return images;
    }

   private:
    std::vector<std::atomic<bool>> failed_;  // any thread may add
};

}  // namespace npconv
