// AVX2 and FMA: 16 registers of 32 bytes; 12 accumulators, two vectors of B, two broadcasts.
#include "table.inc.hpp"

namespace npconv {

extern constexpr Kernels kernels_avx2 = make_kernels<32, 6, 2>();

}  // namespace npconv
