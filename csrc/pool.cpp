#include "pool.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t block_windows = 1024;   // whose pixels stay in the L1 cache
constexpr index_t task_pixels = 1 << 15;  // what a thread takes at a time

std::vector<Tap> window_taps(index_t kernel, index_t dilation, index_t pad) {
    std::vector<Tap> taps;
    for (index_t r = 0; r < kernel; ++r) taps.push_back({r * dilation - pad, r});
    return taps;
}

/// The first element of a window that is not in the padding before the image, counted from the window's start; -1 if
/// there is none.
index_t first_inside(index_t start, index_t kernel, index_t dilation, index_t in) {
    const index_t skip = start < 0 ? ceil_div(-start, dilation) * dilation : 0;
    return skip <= dilation * (kernel - 1) && start + skip < in ? skip : -1;
}

/// Where the maximum of a window of minus infinities is said to be, as an offset from the window's start.
void first_offsets(const PoolShape& s, index_t oy, index_t col_begin, index_t n, std::int32_t* first) {
    const index_t y = oy * s.stride.h - s.pad.h, dy = first_inside(y, s.kernel.h, s.dilation.h, s.h);
    for (index_t j = 0; j < n; ++j) {
        const index_t x = (col_begin + j) * s.stride.w - s.pad.w;
        const index_t dx = first_inside(x, s.kernel.w, s.dilation.w, s.w);
        const bool none = dy < 0 || dx < 0;
        first[j] = static_cast<std::int32_t>(none ? -1 - (y * s.w + x) : dy * s.w + dx);
    }
}

}  // namespace

template <class T>
void max_pool2d_forward(const PoolShape& s, const T* x, T* y, index_t* indices) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    // Every plane is an image of one channel; the slab pads it with minus infinity.
    const Axis v(s.h, s.oh, s.stride.h, window_taps(s.kernel.h, s.dilation.h, s.pad.h));
    const Axis h(s.w, s.ow, s.stride.w, window_taps(s.kernel.w, s.dilation.w, s.pad.w));
    const index_t rows = s.n * s.c * s.oh, width = std::min(s.ow, block_windows), col_blocks = ceil_div(s.ow, width);
    const index_t block_rows = std::max<index_t>(block_windows / width, 1);
    const SlabLayout layout(v, h, block_rows, width);
    std::vector<index_t> tap_offsets;
    std::vector<std::int32_t> codes;  // a tap's pixel, counted from the window's start
    for (const Tap& tv : v.taps) {
        for (const Tap& th : h.taps) {
            tap_offsets.push_back(layout.tap_offset(tv, th));
            codes.push_back(static_cast<std::int32_t>(tv.index * s.dilation.h * s.w + th.index * s.dilation.w));
        }
    }
    const int taps = static_cast<int>(codes.size());
    const bool padded = s.pad.h > 0 || s.pad.w > 0;
    // Without overlap the rows of a slab follow each other as those of y do, and narrow ones fill whole vectors.
    const bool joined = v.reach == 0 && h.reach == 0 && col_blocks == 1;

    const index_t task_rows = ceil_div(std::max<index_t>(task_pixels / width, 1), block_rows) * block_rows;
    const double task_ns = static_cast<double>(task_rows * width * taps) * element_ns;
    parallel_for(ceil_div(rows, task_rows) * col_blocks, task_ns, [&](index_t task) {
        const index_t col = task % col_blocks * width, first_row = task / col_blocks * task_rows;
        const index_t last_row = std::min(first_row + task_rows, rows);
        const index_t slack = max_tile_columns;  // whole vectors are read and written
        Scratch<T> slab(layout.channel_stride() + slack);
        Scratch<std::int32_t> first(block_rows * width + slack), arg(block_rows * width + slack);
        if (!padded) std::fill_n(first.data(), block_rows * width + slack, 0);
        std::vector<Strip> strips;
        std::vector<const T*> pointers(codes.size());

        for (index_t row = first_row; row < last_row; row += block_rows) {
            const Block block{row, std::min(row + block_rows, last_row), col, std::min(col + width, s.ow)};
            const index_t n = block.width();
            cut_into_strips(block, s.oh, strips);
            layout.place(strips);
            layout.fill(block, strips, x, s.h * s.w, 1, -std::numeric_limits<T>::infinity(), slab.data());
            index_t done = 0;  // windows of this block
            for (const Strip& strip : strips) {
                for (index_t i = 0; i < strip.rows; ++i, done += n) {
                    if (indices && padded) first_offsets(s, strip.row + i, col, n, first.data() + done);
                    if (joined) continue;
                    for (int t = 0; t < taps; ++t) {
                        pointers[t] = slab.data() + strip.source + i * layout.width() + tap_offsets[t];
                    }
                    kernel.max_pool_row(taps, pointers.data(), codes.data(), first.data() + done, n,
                                        y + (strip.image * s.oh + strip.row + i) * s.ow + col,
                                        indices ? arg.data() + done : nullptr);
                }
            }
            if (joined) {
                for (int t = 0; t < taps; ++t) pointers[t] = slab.data() + tap_offsets[t];
                kernel.max_pool_row(taps, pointers.data(), codes.data(), first.data(), done, y + row * s.ow,
                                    indices ? arg.data() : nullptr);
            }
            if (!indices) continue;
            done = 0;
            for (const Strip& strip : strips) {
                for (index_t i = 0; i < strip.rows; ++i, done += n) {
                    const index_t oy = strip.row + i;
                    const index_t base = (oy * s.stride.h - s.pad.h) * s.w + col * s.stride.w - s.pad.w;
                    kernel.window_indices(arg.data() + done, base, s.stride.w, n,
                                          indices + (strip.image * s.oh + oy) * s.ow + col);
                }
            }
        }
    });
}

template <class T>
void max_pool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const index_t* indices,
                         T* dx) {
    parallel_for_range(
        planes, static_cast<double>(plane_size + 2 * windows) * element_ns, [&](index_t begin, index_t end) {
            for (index_t plane = begin; plane < end; ++plane) {
                T* const to = dx + plane * plane_size;
                std::fill(to, to + plane_size, T(0));
                for (index_t i = plane * windows; i < (plane + 1) * windows; ++i) {
                    const index_t index = indices[i];
                    if (index == -1) continue;  // a window without a pixel
                    if (index < 0 || index >= plane_size) {
                        require(false, "max_pool2d_backward",
                                "indices holds " + text(index) + ", the planes of input_shape have " +
                                    text(plane_size) + " pixels; pass what max_pool2d returned for this shape");
                    }
                    to[index] += dy[i];
                }
            }
        });
}

template void max_pool2d_forward(const PoolShape&, const float*, float*, index_t*);
template void max_pool2d_forward(const PoolShape&, const double*, double*, index_t*);
template void max_pool2d_backward(index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_pool2d_backward(index_t, index_t, index_t, const double*, const index_t*, double*);

}  // namespace npconv
