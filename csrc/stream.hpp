// Storing past the caches. An ordinary store first reads the line that it writes to, and pushes another out of the
// cache. Where a result is larger than the caches, its first lines are gone anyway when somebody reads them: then lines
// written whole, straight to memory, cost half the traffic, and the arithmetic need not wait for it.
#pragma once

#include <cstdint>

#include "shape.hpp"

namespace npconv {

// Measured with a reader behind the convolution: with less the reader still finds it in the L3 cache and is sooner
// done.
constexpr index_t streamed_bytes = 48 << 20;

/// Whether `count` results are worth it, and start at a line of the cache.
template <class T>
bool streams(const T* out, index_t count) {
    constexpr std::uintptr_t line = 64;
    return count * static_cast<index_t>(sizeof(T)) >= streamed_bytes &&
           reinterpret_cast<std::uintptr_t>(out) % line == 0;
}

/// Waits until what this thread has streamed can be seen by the others.
inline void finish_streams() {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

}  // namespace npconv
