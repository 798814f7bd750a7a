// What the machine can do at most: fused multiply-adds from registers, and copies of memory larger than the caches.
// Compiled for the machine it runs on, apart from npconv, by peak.py.
#include <chrono>
#include <cstddef>
#include <cstring>

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int accumulators = 24;  // of 32 registers; enough to hide the latency of two units
#else
constexpr int accumulators = 12;  // of 16
#endif

typedef float Vector __attribute__((vector_size(vector_bytes)));

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Floating point operations per second of `threads` threads, two per multiply-add.
extern "C" double fma_rate(int threads, long steps, float* sink) {
    const float scale = *sink;  // 1, but the compiler cannot know
    const double start = seconds();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) {
        const Vector a = Vector{} + scale, b = a * scale;
        Vector sum[accumulators];
        for (int j = 0; j < accumulators; ++j) sum[j] = a * static_cast<float>(j);  // equal sums would become one
        for (long i = 0; i < steps; ++i) {
#pragma GCC unroll 32
            for (int j = 0; j < accumulators; ++j) sum[j] = sum[j] * a + b;
        }
        Vector total = {};
        for (int j = 0; j < accumulators; ++j) total += sum[j];
        sink[thread] = total[0];
    }
    const double lanes = vector_bytes / sizeof(float);
    return 2.0 * lanes * accumulators * static_cast<double>(steps) * threads / (seconds() - start);
}

/// Bytes read plus bytes written per second, by `threads` threads that copy `bytes` together.
extern "C" double copy_rate(int threads, std::size_t bytes, const char* from, char* to) {
    const double start = seconds();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) {
        const std::size_t part = bytes / static_cast<std::size_t>(threads);
        std::memcpy(to + part * static_cast<std::size_t>(thread), from + part * static_cast<std::size_t>(thread), part);
    }
    return 2.0 * static_cast<double>(bytes) / (seconds() - start);
}
