// The input of a convolution as its inner loops want it. A block of output rows reads a few input rows; they are
// copied into a "slab": zero padded, and for strides above 1 split by phase (every stride-th pixel side by side).
// In the slab the pixels that one kernel tap meets along an output row are contiguous, at any stride, padding and
// dilation, so that nothing further in needs to know about those.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "dispatch.hpp"
#include "kernels/kernels.hpp"
#include "parallel.hpp"

namespace npconv {

inline index_t floor_div(index_t a, index_t b) {
    if (b == 1) return a;  // most often, and a division takes as long as twenty additions
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/// One tap of a kernel along one axis: output o reads input o*stride + offset and kernel element `index`.
struct Tap {
    index_t offset, index;
};

/// One axis of a correlation: `out` results from `in` inputs; result o is stored at first + o*step.
struct Axis {
    index_t in, out, stride;
    std::vector<Tap> taps;
    index_t first = 0, step = 1;

    // Tap t reads phase offset mod stride at position o + floor(offset / stride).
    std::vector<index_t> phases;  ///< the phases that some tap reads
    index_t reach_from = 0;       ///< the smallest of those floors ...
    index_t reach = 0;            ///< ... and how far behind it the largest lies

    Axis(index_t in_, index_t out_, index_t stride_, std::vector<Tap> taps_, index_t first_ = 0, index_t step_ = 1)
        : in(in_), out(out_), stride(stride_), taps(std::move(taps_)), first(first_), step(step_) {
        if (taps.empty()) return;
        reach_from = floor_div(taps[0].offset, stride);
        index_t reach_to = reach_from;
        for (const Tap& tap : taps) {
            const index_t floor = floor_div(tap.offset, stride);
            reach_from = std::min(reach_from, floor);
            reach_to = std::max(reach_to, floor);
            const index_t phase = tap.offset - floor * stride;
            if (std::find(phases.begin(), phases.end(), phase) == phases.end()) phases.push_back(phase);
        }
        reach = reach_to - reach_from;
    }

    index_t slot(const Tap& tap) const {  ///< which of `phases` the tap reads
        const index_t phase = tap.offset - floor_div(tap.offset, stride) * stride;
        return std::find(phases.begin(), phases.end(), phase) - phases.begin();
    }
    index_t shift(const Tap& tap) const { return floor_div(tap.offset, stride) - reach_from; }
};

/// Forward: output o meets kernel element r at input o*stride + r*dilation - pad.
inline Axis forward_axis(index_t in, index_t out, index_t kernel, index_t stride, index_t dilation, index_t pad) {
    std::vector<Tap> taps;
    for (index_t r = 0; r < kernel; ++r) taps.push_back({r * dilation - pad, r});
    return Axis(in, out, stride, std::move(taps));
}

/// Backward: the inputs i with (i + pad) mod stride == phase. They are met by the kernel elements r with
/// r*dilation mod stride == phase, at output (i + pad - r*dilation) / stride, which grows by one from each such
/// input to the next: a correlation of stride 1 whose results are stride apart.
inline Axis backward_axis(index_t in, index_t out, index_t kernel, index_t stride, index_t dilation, index_t pad,
                          index_t phase) {
    const index_t first = ((phase - pad) % stride + stride) % stride;
    const index_t count = first < in ? (in - 1 - first) / stride + 1 : 0;
    std::vector<Tap> taps;
    for (index_t r = 0; r < kernel; ++r) {
        if (r * dilation % stride == phase) taps.push_back({(first + pad - r * dilation) / stride, r});
    }
    return Axis(out, count, 1, std::move(taps), first, stride);
}

/// A piece of the output: rows counted through all images, and a range of columns.
struct Block {
    index_t row_begin, row_end, col_begin, col_end;

    index_t rows() const { return row_end - row_begin; }
    index_t width() const { return col_end - col_begin; }
};

/// Cuts the rows of all images, each of image_rows x image_cols elements, into blocks of at most `most` elements, but
/// at least a row's part.
struct BlockGrid {
    index_t image_rows, image_cols;
    index_t rows, block_rows, block_cols, row_blocks, col_blocks;

    BlockGrid(index_t images, index_t image_rows_, index_t image_cols_, index_t most)
        : image_rows(image_rows_), image_cols(image_cols_), rows(images * image_rows) {
        col_blocks = ceil_div(image_cols, most);
        block_cols = ceil_div(image_cols, col_blocks);
        row_blocks = ceil_div(rows, std::max<index_t>(most / block_cols, 1));
        block_rows = ceil_div(rows, row_blocks);
        row_blocks = ceil_div(rows, block_rows);
    }
    index_t blocks() const { return row_blocks * col_blocks; }
    Block block(index_t i) const {
        const index_t row = i / col_blocks * block_rows, col = i % col_blocks * block_cols;
        return {row, std::min(row + block_rows, rows), col, std::min(col + block_cols, image_cols)};
    }
};

/// The same with as many blocks for one thread as for another, where there are few of them. `whole_rows`: no row is
/// cut, whatever it has.
inline BlockGrid balanced_grid(index_t images, index_t image_rows, index_t image_cols, index_t most, index_t threads,
                               bool whole_rows = false) {
    if (whole_rows) most = std::max(most, image_cols);
    const index_t all = images * image_rows * image_cols, blocks = ceil_div(all, most);
    if (blocks == 1 || blocks >= 8 * threads) return BlockGrid(images, image_rows, image_cols, most);
    const index_t rounds = std::max<index_t>((2 * blocks + threads) / (2 * threads), 1);
    const index_t wanted = ceil_div(all, rounds * threads);
    // Rounded up to whole rows: a block more than there are turns would be a turn of its own.
    const index_t rows = ceil_div(wanted, image_cols);
    const bool parts_of_rows = wanted < image_cols && !whole_rows;
    return BlockGrid(images, image_rows, image_cols, parts_of_rows ? wanted : rows * image_cols);
}

/// Successive output rows of one image, or every step-th from `row` on; `source` is where the first one's pixels lie in
/// the slab.
struct Strip {
    index_t image, row, rows, source;
    index_t step = 1;
};

/// Cuts the rows of a block into strips.
inline void cut_into_strips(const Block& block, index_t rows_per_image, std::vector<Strip>& strips) {
    strips.clear();
    for (index_t row = block.row_begin; row < block.row_end;) {
        const index_t image = row / rows_per_image;
        const index_t end = std::min(block.row_end, (image + 1) * rows_per_image);
        strips.push_back({image, row - image * rows_per_image, end - row, 0});
        row = end;
    }
}

/// What a block's slab may hold of one channel, unless a single output row reads more.
constexpr index_t slab_elements = 1 << 16;

/// How many output rows of `width` pixels, at least one, read at most `elements` of a slab.
inline index_t rows_within(const Axis& v, const Axis& h, index_t width, index_t elements) {
    const auto phases = static_cast<index_t>(v.phases.size() * h.phases.size());
    return std::max<index_t>(elements / (width + h.reach) / std::max<index_t>(phases, 1) - v.reach, 1);
}

/// The slab's geometry, the same for every thread: planes of `rows` x `width` pixels, one per channel and phase.
class SlabLayout {
   public:
    SlabLayout(const Axis& vertical, const Axis& horizontal, index_t block_rows, index_t block_width)
        : v_(vertical), h_(horizontal), width_(block_width + h_.reach) {
        const index_t strips = (block_rows + v_.out - 2) / v_.out + 1;  // a block may begin inside an image
        const auto phases = static_cast<index_t>(v_.phases.size() * h_.phases.size());
        const index_t rows = block_rows + strips * v_.reach;
        constexpr index_t most = index_t(1) << 48;  // elements; no memory is that large, and nothing overflows below
        if (rows > most / width_ || rows * width_ > most / std::max<index_t>(phases, 1)) throw std::bad_alloc();
        plane_ = rows * width_;
        // An odd number of cache lines: channels a power of two apart would all meet in the same lines of the L1 cache.
        constexpr index_t line = 16;
        channel_stride_ = (plane_ * phases / line | 1) * line + line * 2;
    }

    index_t width() const { return width_; }
    index_t channel_stride() const { return channel_stride_; }

    /// The elements of a slab of several channels.
    index_t size(index_t channels) const {
        if (channels > (index_t(1) << 58) / std::max<index_t>(channel_stride_, 1)) throw std::bad_alloc();
        return channels * channel_stride_;
    }

    /// How far from a strip's source the pixels of one tap begin, in the slab of channel 0.
    index_t tap_offset(const Tap& v, const Tap& h) const {
        const index_t plane = v_.slot(v) * static_cast<index_t>(h_.phases.size()) + h_.slot(h);
        return plane * plane_ + v_.shift(v) * width_ + h_.shift(h);
    }

    /// Tells each strip of a block where in the slab its pixels go.
    void place(std::vector<Strip>& strips) const {
        index_t source = 0;
        for (Strip& strip : strips) {
            strip.source = source;
            source += (strip.rows + v_.reach) * width_;
        }
    }

    /// Copies what `block` reads of `channels` planes of each image; pixels of the padding become `pad_value`. Up to
    /// a vector behind the slab is written.
    template <class T>
    void fill(const Block& block, const std::vector<Strip>& strips, const T* in, index_t image_stride, index_t channels,
              T pad_value, T* slab) const {
        for (const index_t phase_v : v_.phases) {
            for (const index_t phase_h : h_.phases) {
                for (const Strip& strip : strips) {
                    fill_strip(strip, block, in + strip.image * image_stride, channels, phase_v, phase_h, pad_value,
                               slab + strip.source);
                }
                slab += plane_;
            }
        }
    }

    /// The way back: copies one channel of a slab to rows [top, bottom) of `image`, in the columns of a whole block.
    /// Pixels that no tap meets become 0.
    template <class T>
    void unfill(const Strip& strip, const T* slab, index_t top, index_t bottom, T* image) const {
        std::fill(image + top * h_.in, image + bottom * h_.in, T(0));
        for (const index_t phase_v : v_.phases) {
            for (const index_t phase_h : h_.phases) {
                for (index_t i = 0; i < strip.rows + v_.reach; ++i) {
                    const index_t y = (strip.row + v_.reach_from + i) * v_.stride + phase_v;
                    if (y < top || y >= bottom) continue;
                    const index_t left = std::max<index_t>(-h_.reach_from, 0);
                    const index_t right =
                        std::min(floor_div(h_.in - 1 - phase_h, h_.stride) + 1 - h_.reach_from, width_);
                    const T* const from = slab + i * width_;
                    T* const to = image + y * h_.in + h_.reach_from * h_.stride + phase_h;
                    for (index_t x = left; x < right; ++x) to[x * h_.stride] = from[x];
                }
                slab += plane_;
            }
        }
    }

    /// Puts zeros behind the pixels of a block, where columns that nobody wants are read.
    template <class T>
    void clear_behind(const std::vector<Strip>& strips, index_t channels, index_t slack, T* slab) const {
        const Strip& last = strips.back();
        const index_t used = last.source + (last.rows + v_.reach) * width_,
                      phases = static_cast<index_t>(v_.phases.size() * h_.phases.size());
        for (index_t c = 0; c < channels; ++c) {
            T* const plane = slab + c * channel_stride_;
            for (index_t p = 0; p < phases; ++p) std::fill(plane + p * plane_ + used, plane + (p + 1) * plane_, T(0));
            std::fill(plane + phases * plane_, plane + channel_stride_, T(0));
        }
        std::fill(slab + channels * channel_stride_, slab + channels * channel_stride_ + slack, T(0));
    }

   private:
    template <class T>
    void fill_strip(const Strip& strip, const Block& block, const T* image, index_t channels, index_t phase_v,
                    index_t phase_h, T pad_value, T* dst) const {
        // Position x of slab row y is input column (x0 + x)*stride + phase of input row (y0 + y)*stride + phase; those
        // of [left, right) and [top, bottom) lie inside the image.
        const index_t x0 = block.col_begin + h_.reach_from, y0 = strip.row + v_.reach_from;
        const index_t rows = strip.rows + v_.reach;
        const index_t left = std::clamp<index_t>(-x0, 0, width_);
        const index_t right = std::clamp<index_t>(floor_div(h_.in - 1 - phase_h, h_.stride) + 1 - x0, left, width_);
        const index_t top = std::clamp<index_t>(-y0, 0, rows);
        const index_t bottom = std::clamp<index_t>(floor_div(v_.in - 1 - phase_v, v_.stride) + 1 - y0, top, rows);
        const index_t first = ((y0 + top) * v_.stride + phase_v) * h_.in + (x0 + left) * h_.stride + phase_h;
        const auto copy_rows = kernels_of<T>().copy_rows;
        for (index_t c = 0; c < channels; ++c, image += v_.in * h_.in, dst += channel_stride_) {
            std::fill(dst, dst + top * width_, pad_value);
            copy_rows(image + first, image + v_.in * h_.in, v_.stride * h_.in, h_.stride, bottom - top, right - left,
                      left, pad_value, dst + top * width_, width_);
            std::fill(dst + bottom * width_, dst + rows * width_, pad_value);
        }
    }

    const Axis& v_;
    const Axis& h_;
    index_t width_, plane_, channel_stride_;
};

}  // namespace npconv
