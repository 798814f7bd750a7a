// NEON on aarch64: 32 registers of 16 bytes; 16 accumulators already cover latency 4 at four FMAs a cycle.
#include "table.inc.hpp"

namespace npconv {

extern constexpr Kernels kernels_neon = make_kernels<16, 8, 2>();

}  // namespace npconv
