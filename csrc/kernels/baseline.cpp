// What every CPU of the architecture has (on x86-64 SSE2: 16 registers of 16 bytes), without flags of its own.
#include "table.inc.hpp"

namespace npconv {

extern constexpr Kernels kernels_baseline = make_kernels<16, 6, 2>();

}  // namespace npconv
