// Threads: the only file that knows OpenMP, fork and Ctrl-C.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace npconv {

// Rough costs, to judge whether work is worth sharing.
constexpr double fma_ns = 0.02;     // one fused multiply-add in a micro-kernel
constexpr double element_ns = 0.5;  // one element read, or written, in passing

inline index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }

/// Where part i begins when `total` things are shared evenly among `parts`.
inline index_t share_begin(index_t i, index_t parts, index_t total) { return i * total / parts; }

/// What every thread of the process shares; atomics, so that calls may overlap.
struct ThreadState {
    std::atomic<int> count{1};
    /// A forked child inherits OpenMP's records of a pool whose threads are gone: entering it would wait forever.
    std::atomic<bool> forked{false};
    /// Called now and then on the thread that called us; throws if the user interrupts.
    std::atomic<void (*)()> check_interrupt{nullptr};
};

inline ThreadState& thread_state() {
    static ThreadState state;
    return state;
}

/// The number of threads a call uses, at most: one inside a parallel loop, whose threads are all busy.
inline int get_num_threads() {
#ifdef _OPENMP
    if (omp_in_parallel()) return 1;
#endif
    const ThreadState& state = thread_state();
    return state.forked ? 1 : state.count.load();
}

constexpr int most_threads = 4096;

inline void set_num_threads(int count) {
    if (count < 1 || count > most_threads) {
        throw std::invalid_argument("set_num_threads: n is " + std::to_string(count) + ", it must be from 1 to " +
                                    std::to_string(most_threads));
    }
#ifdef _OPENMP
    thread_state().count = count;
#endif
}

inline bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

/// To be called once: `count` threads, or as many as OpenMP would take if it is 0.
inline void start_threads(int count, void (*check_interrupt)()) {
#ifdef _OPENMP
    thread_state().count = omp_get_max_threads();
#endif
    if (count > 0) set_num_threads(count);
    thread_state().check_interrupt = check_interrupt;
#ifndef _WIN32
    pthread_atfork(nullptr, nullptr, [] { thread_state().forked = true; });
#endif
}

/// A thread is worth waking for this many nanoseconds of work.
constexpr double thread_ns = 5000;

/// How many threads are worth waking for work of so many nanoseconds, at least one.
inline index_t useful_threads(double ns) {
    return static_cast<index_t>(std::clamp(ns / thread_ns, 1.0, static_cast<double>(get_num_threads())));
}

/// The next of some tasks that belong together; no two in one cache line.
struct alignas(64) Share {
    std::atomic<index_t> next{0};
};

/// Calls body(0) ... body(n - 1) in any order on up to get_num_threads() threads, fewer if the work is small: one call
/// is expected to take `item_ns` nanoseconds. The first exception ends the loop and is thrown again on the calling
/// thread.
template <class Body>
void parallel_for(index_t n, double item_ns, Body&& body) {
    std::exception_ptr error;
    std::atomic<bool> stop{false};
    using Clock = std::chrono::steady_clock;
    const auto pause = std::chrono::milliseconds(100);
    auto next_check = Clock::now() + pause;

    auto step = [&](index_t i, bool on_calling_thread) {
        if (stop) return;
        try {
            if (on_calling_thread && Clock::now() >= next_check) {
                if (auto check = thread_state().check_interrupt.load()) check();
                next_check = Clock::now() + pause;
            }
            body(i);
        } catch (...) {
            if (!stop.exchange(true)) error = std::current_exception();
        }
    };

    const int threads = static_cast<int>(std::min(n, useful_threads(static_cast<double>(n) * item_ns)));
    if (threads > 1) {
#ifdef _OPENMP
        // Every thread begins with a share of its own, the same in every loop over as many tasks: what it wrote for one
        // layer is in its cache when the next layer reads it. Who has finished takes over what others have left.
        std::vector<Share> shares(static_cast<std::size_t>(threads));
        for (int t = 0; t < threads; ++t) shares[static_cast<std::size_t>(t)].next = share_begin(t, threads, n);
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num();
            for (int k = 0; k < threads; ++k) {
                const int owner = (me + k) % threads;
                const index_t end = share_begin(owner + 1, threads, n);
                std::atomic<index_t>& next = shares[static_cast<std::size_t>(owner)].next;
                for (index_t i = next++; i < end; i = next++) step(i, me == 0);
            }
        }
#endif
    } else {
        // The loop of an operator that runs inside another one's loop may be on any thread, and leaves checking to
        // that.
#ifdef _OPENMP
        const bool on_calling_thread = !omp_in_parallel();
#else
        const bool on_calling_thread = true;
#endif
        for (index_t i = 0; i < n; ++i) step(i, on_calling_thread);
    }
    if (error) std::rethrow_exception(error);
}

/// The same over pieces of a range of `n` elements, each of which takes `ns`: body(begin, end).
template <class Body>
void parallel_for_range(index_t n, double ns, Body&& body) {
    const index_t grain = std::max<index_t>(static_cast<index_t>(thread_ns / ns), 1);
    parallel_for(ceil_div(n, grain), thread_ns, [&](index_t i) { body(i * grain, std::min((i + 1) * grain, n)); });
}

}  // namespace npconv
