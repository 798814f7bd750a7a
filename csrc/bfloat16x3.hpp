// Products by a unit that multiplies bfloat16; kernels/kernels.hpp says how float32 comes out of it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
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

/// The largest magnitude of some numbers, which any thread may add to: as bits, whose order is that of the magnitudes,
/// with NaN behind them all.
class Largest {
   public:
    void add(const std::uint32_t* bits, index_t n) {
        const std::uint32_t most = n > 0 ? *std::max_element(bits, bits + n) : 0;
        std::uint32_t before = bits_;
        while (before < most && !bits_.compare_exchange_weak(before, most)) {
        }
    }
    /// Adds `rows` rows of Unit::columns numbers, of which n columns count.
    void add_rows(const float* numbers, index_t rows, index_t n = Unit::columns) {
        std::uint32_t bits[Unit::columns];
        bfloat16x3_kernels()->largest(rows, numbers, bits);
        add(bits, n);
    }
    float value() const {
        const std::uint32_t bits = bits_;
        float number;
        std::memcpy(&number, &bits, sizeof number);
        return number;
    }

   private:
    std::atomic<std::uint32_t> bits_{0};
};

/// Whether sums of products are those of float32, going by the largest of them and of one operand. They are not where
/// one is no number, be it because of an infinity on the way; nor where all of them, or all of an operand, are so small
/// that the lower parts, or their products, may have been subnormal: the unit takes those for zeros.
inline bool are_of_float32(float largest_sum, float largest_operand) {
    constexpr float least_sum = 0x1p-90f,
                    least_operand = 0x1p-100f;  // 2^-126 is the least number that is not subnormal
    return largest_operand >= least_operand && largest_sum >= least_sum * std::max(1.0f, largest_operand);
}

/// The images that float32 has to make anew. The others keep their sums, so that no result depends on the images beside
/// it, nor on how they are dealt to threads.
inline std::vector<index_t> images_to_make_anew(const std::vector<Largest>& sums, const Largest& weights) {
    std::vector<index_t> images;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        if (!are_of_float32(sums[i].value(), weights.value())) images.push_back(static_cast<index_t>(i));
    }
    return images;
}

}  // namespace npconv
