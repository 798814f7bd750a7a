// Products by a unit that multiplies bfloat16; kernels/kernels.hpp says how float32 comes out of it.
#pragma once

#include <atomic>

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

}  // namespace npconv
