// Aligned scratch memory that stays warm: a fresh block from the system costs a page fault every 4 KiB.
#pragma once

#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "kernels/kernels.hpp"

#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace npconv {

/// A piece of memory, aligned to a cache line (which is also the widest vector).
struct MemoryBlock {
    void* data = nullptr;
    std::size_t bytes = 0;
};

/// Freed blocks that are kept to be handed out again, at most so many and so many bytes of them.
class BlockCache {
   public:
    BlockCache(std::size_t most_blocks, std::size_t most_bytes) : most_blocks_(most_blocks), most_bytes_(most_bytes) {}
    BlockCache(const BlockCache&) = delete;
    BlockCache& operator=(const BlockCache&) = delete;
    ~BlockCache() { release(); }

    MemoryBlock take(std::size_t bytes) {
        std::size_t best = blocks_.size();
        for (std::size_t i = 0; i < blocks_.size(); ++i) {  // the smallest that is large enough, but not twice as large
            const std::size_t size = blocks_[i].bytes;
            if (size >= bytes && size / 2 <= bytes && (best == blocks_.size() || size < blocks_[best].bytes)) best = i;
        }
        if (best < blocks_.size()) {
            const MemoryBlock block = blocks_[best];
            blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(best));
            kept_bytes_ -= block.bytes;
            return block;
        }
        constexpr std::size_t huge_page = 2u << 20;
        const std::size_t alignment = bytes >= huge_page / 2 ? huge_page : 64;
        MemoryBlock block;
        block.bytes = (bytes + alignment - 1) / alignment * alignment;
        block.data = std::aligned_alloc(alignment, block.bytes);
        if (!block.data) throw std::bad_alloc();
#ifdef __linux__
        // In pages of 4 KiB the planes of an image would be more pages than the CPU keeps addresses for. Only advice.
        if (alignment == huge_page) madvise(block.data, block.bytes, MADV_HUGEPAGE);
#endif
        return block;
    }

    void give_back(MemoryBlock block) {
        if (block.bytes > most_bytes_) {
            std::free(block.data);
            return;
        }
        blocks_.push_back(block);
        kept_bytes_ += block.bytes;
        // The oldest go first: their sizes are the least likely to be asked for again.
        while (blocks_.size() > most_blocks_ || kept_bytes_ > most_bytes_) {
            kept_bytes_ -= blocks_.front().bytes;
            std::free(blocks_.front().data);
            blocks_.erase(blocks_.begin());
        }
    }

    void release() {
        for (const MemoryBlock& block : blocks_) std::free(block.data);
        blocks_.clear();
        kept_bytes_ = 0;
    }

    std::size_t kept_bytes() const { return kept_bytes_; }

   private:
    std::size_t most_blocks_, most_bytes_;
    std::size_t kept_bytes_ = 0;
    std::vector<MemoryBlock> blocks_;
};

/// The scratch blocks of this thread.
inline BlockCache& scratch_cache() {
    thread_local BlockCache cache(8, 4u << 20);
    return cache;
}

/// The memory behind result arrays and large scratch, for all threads: what one call has given up, the next one takes.
class ResultMemory {
   public:
    /// Smaller arrays are NumPy's business: its allocator keeps small blocks warm itself.
    static constexpr std::size_t least_bytes = 64 << 10;

    static ResultMemory& instance() {
        // Never destroyed: arrays may outlive everything else.
        static ResultMemory* memory = [] {
#ifndef _WIN32
            // A child that is forked while another thread holds the lock would wait for it forever.
            pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                           [] { instance().mutex_.unlock(); });
#endif
            return new ResultMemory;
        }();
        return *memory;
    }

    MemoryBlock take(std::size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return cache_.take(bytes);
    }
    void give_back(MemoryBlock block) {
        const std::lock_guard<std::mutex> lock(mutex_);
        cache_.give_back(block);
    }
    void release() {
        const std::lock_guard<std::mutex> lock(mutex_);
        cache_.release();
    }
    std::size_t kept_bytes() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return cache_.kept_bytes();
    }

   private:
    std::mutex mutex_;
    BlockCache cache_{32, 128u << 20};
};

/// `count` uninitialised elements, for as long as the object lives, on the thread that made it.
template <class T>
class Scratch {
   public:
    explicit Scratch(index_t count) {
        const auto n = static_cast<std::size_t>(count > 0 ? count : 1);
        if (n > std::numeric_limits<std::size_t>::max() / 2 / sizeof(T)) throw std::bad_alloc();
        shared_ = n * sizeof(T) >= (1u << 20);  // a thread's own cache is for small blocks
        block_ = shared_ ? ResultMemory::instance().take(n * sizeof(T)) : scratch_cache().take(n * sizeof(T));
    }
    ~Scratch() {
        if (shared_) {
            ResultMemory::instance().give_back(block_);
        } else {
            scratch_cache().give_back(block_);
        }
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    /// Fills with zeros what will be computed with but not used: left-overs of other calls can look like subnormal
    /// numbers, with which a CPU computes a hundred times slower.
    void clear() { std::memset(block_.data, 0, block_.bytes); }

    T* data() { return static_cast<T*>(block_.data); }
    const T* data() const { return static_cast<const T*>(block_.data); }
    T& operator[](index_t i) { return data()[i]; }

   private:
    bool shared_;
    MemoryBlock block_;
};

}  // namespace npconv
