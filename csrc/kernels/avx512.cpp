// AVX-512 (F, BW, DQ, VL): 32 registers of 64 bytes; 28 accumulators leave room for two vectors of B and a broadcast.
#include "table.inc.hpp"

namespace npconv {

extern constexpr Kernels kernels_avx512 = make_kernels<64, 14, 2>();

}  // namespace npconv
