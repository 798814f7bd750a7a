// Aligned scratch memory that stays warm: a fresh block from the system costs a page fault every 4 KiB.
#pragma once

#include <cstdlib>
#include <limits>
#include <new>
#include <vector>

#include "kernels/kernels.hpp"

namespace npconv {

/// The blocks that a thread keeps between calls.
class BlockCache {
   public:
    static constexpr std::size_t alignment = 64;         // a cache line, and the widest vector
    static constexpr std::size_t keep_bytes = 4u << 20;  // per thread; larger blocks go back to the system

    struct Block {
        void* data = nullptr;
        std::size_t bytes = 0;
    };

    BlockCache() = default;
    BlockCache(const BlockCache&) = delete;
    BlockCache& operator=(const BlockCache&) = delete;
    ~BlockCache() {
        for (const Block& block : blocks_) std::free(block.data);
    }

    static BlockCache& of_this_thread() {
        thread_local BlockCache cache;
        return cache;
    }

    Block take(std::size_t bytes) {
        std::size_t best = blocks_.size();
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            if (blocks_[i].bytes >= bytes && (best == blocks_.size() || blocks_[i].bytes < blocks_[best].bytes))
                best = i;
        }
        Block block;
        if (best < blocks_.size()) {
            block = blocks_[best];
            blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(best));
            kept_ -= block.bytes;
        } else {
            block.bytes = (bytes + alignment - 1) / alignment * alignment;
            block.data = std::aligned_alloc(alignment, block.bytes);
            if (!block.data) throw std::bad_alloc();
        }
        return block;
    }

    void give_back(Block block) {
        blocks_.push_back(block);
        kept_ += block.bytes;
        while (kept_ > keep_bytes) {  // the oldest first: its size is the least likely to be asked for again
            kept_ -= blocks_.front().bytes;
            std::free(blocks_.front().data);
            blocks_.erase(blocks_.begin());
        }
    }

   private:
    std::vector<Block> blocks_;
    std::size_t kept_ = 0;
};

/// `count` uninitialised elements, for as long as the object lives, on the thread that made it.
template <class T>
class Scratch {
   public:
    explicit Scratch(index_t count) {
        const auto n = static_cast<std::size_t>(count > 0 ? count : 1);
        if (n > std::numeric_limits<std::size_t>::max() / 2 / sizeof(T)) throw std::bad_alloc();
        block_ = BlockCache::of_this_thread().take(n * sizeof(T));
    }
    ~Scratch() { BlockCache::of_this_thread().give_back(block_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    T* data() { return static_cast<T*>(block_.data); }
    T& operator[](index_t i) { return data()[i]; }

   private:
    BlockCache::Block block_;
};

}  // namespace npconv
