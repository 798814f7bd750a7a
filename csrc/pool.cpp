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
    taps.reserve(static_cast<std::size_t>(kernel));
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

template <class T, class Index>
void max_pool2d_forward(const PoolShape& s, const T* x, T* y, Index* indices, bool relu) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    // Every plane is an image of one channel; the slab pads it with minus infinity.
    const Axis v(s.h, s.oh, s.stride.h, window_taps(s.kernel.h, s.dilation.h, s.pad.h));
    const Axis h(s.w, s.ow, s.stride.w, window_taps(s.kernel.w, s.dilation.w, s.pad.w));
    const index_t planes = s.n * s.c, rows = planes * s.oh;
    const index_t width = std::min(s.ow, block_windows), col_blocks = ceil_div(s.ow, width);
    const index_t block_rows = std::clamp<index_t>(
        std::min(block_windows / width, rows_within(v, h, width, slab_elements)), 1, std::max<index_t>(rows, 1));
    const SlabLayout layout(v, h, block_rows, width);
    std::vector<index_t> slab_offsets, plane_offsets;  // of the taps, in a slab and in a plane of x
    std::vector<std::int32_t> codes;                   // a tap's pixel, counted from the window's start
    const std::size_t window = v.taps.size() * h.taps.size();
    slab_offsets.reserve(window), plane_offsets.reserve(window), codes.reserve(window);
    for (const Tap& tv : v.taps) {
        for (const Tap& th : h.taps) {
            slab_offsets.push_back(layout.tap_offset(tv, th));
            plane_offsets.push_back(tv.offset * s.w + th.offset);
            codes.push_back(static_cast<std::int32_t>(tv.index * s.dilation.h * s.w + th.index * s.dilation.w));
        }
    }
    const int taps = static_cast<int>(window);
    const bool padded = s.pad.h > 0 || s.pad.w > 0;
    const bool inside = windows_inside(s);
    const index_t whole_vectors = s.stride.w * (ceil_div(width, kernel.lanes) * kernel.lanes + kernel.lanes);

    const index_t task_rows = ceil_div(std::max<index_t>(task_pixels / width, 1), block_rows) * block_rows;
    const double task_ns = static_cast<double>(task_rows * width * taps) * element_ns;
    parallel_for(ceil_div(rows, task_rows) * col_blocks, task_ns, [&](index_t task) {
        const index_t col = task % col_blocks * width, first_row = task / col_blocks * task_rows;
        const index_t last_row = std::min(first_row + task_rows, rows);
        const index_t n = std::min(width, s.ow - col);
        // Rows of full width follow each other, so a vector may be stored beyond the end of all but the last.
        const T* const task_end = y + last_row * s.ow;
        Scratch<T> slab(layout.channel_stride() + max_tile_columns * 2);
        Scratch<std::int32_t> first(padded ? width + max_tile_columns : 0);
        std::vector<Strip> strips;

        for (index_t row = first_row; row < last_row; row += block_rows) {
            const Block block{row, std::min(row + block_rows, last_row), col, col + n};
            cut_into_strips(block, s.oh, strips);
            // Windows inside the image are read where they are, unless a whole vector could reach behind the array.
            const Strip& last = strips.back();
            const index_t last_window = (last.image * s.h + (last.row + last.rows - 1) * s.stride.h) * s.w;
            const bool in_place =
                inside && s.stride.w <= 2 &&
                last_window + plane_offsets.back() + whole_vectors + col * s.stride.w <= planes * s.h * s.w;
            if (!in_place) {
                layout.place(strips);
                layout.fill(block, strips, x, s.h * s.w, 1, -std::numeric_limits<T>::infinity(), slab.data());
            }
            for (const Strip& strip : strips) {
                for (index_t i = 0; i < strip.rows; ++i) {
                    const index_t oy = strip.row + i, start = oy * s.stride.h * s.w + col * s.stride.w;
                    const T* const source = in_place ? x + strip.image * s.h * s.w + start
                                                     : slab.data() + strip.source + i * layout.width();
                    const index_t* const offsets = in_place ? plane_offsets.data() : slab_offsets.data();
                    if (indices && padded) first_offsets(s, oy, col, n, first.data());
                    const index_t out = (strip.image * s.oh + oy) * s.ow + col;
                    index_t* at = nullptr;
                    std::int32_t* short_at = nullptr;
                    if constexpr (sizeof(Index) == sizeof(index_t)) {
                        at = indices ? indices + out : nullptr;
                    } else {
                        short_at = indices ? indices + out : nullptr;
                    }
                    const auto max_pool_row = kernel.max_pool_row[in_place ? s.stride.w : 1];
                    max_pool_row(taps, source, offsets, codes.data(), padded ? first.data() : nullptr, n, y + out,
                                 col_blocks == 1 ? task_end : y + out + n, start - s.pad.h * s.w - s.pad.w, s.stride.w,
                                 at, short_at, relu);
                }
            }
        }
    });
}

bool windows_inside(const PoolShape& s) {
    return s.pad.h == 0 && s.pad.w == 0 && (s.oh - 1) * s.stride.h + s.dilation.h * (s.kernel.h - 1) < s.h &&
           (s.ow - 1) * s.stride.w + s.dilation.w * (s.kernel.w - 1) < s.w;
}

template <class T>
void relu_max_pool2d_forward(const PoolShape& s, const T* x, index_t pitch, T* y, std::int32_t* indices) {
    const WindowTaps taps(s, pitch, 1);
    const auto max_pool_row = kernels_of<T>().max_pool_row[s.stride.w];
    const double plane_ns = static_cast<double>(s.oh * s.ow * taps.count()) * element_ns;
    parallel_for_range(s.n * s.c, plane_ns, [&](index_t begin, index_t end) {
        const T* const y_end = y + end * s.oh * s.ow;
        for (index_t row = begin * s.oh; row < end * s.oh; ++row) {
            const index_t oy = row % s.oh, top = oy * s.stride.h;
            max_pool_row(taps.count(), x + (row / s.oh * s.h + top) * pitch, taps.offsets.data(), taps.codes.data(),
                         nullptr, s.ow, y + row * s.ow, y_end, top * s.w, s.stride.w, nullptr,
                         indices ? indices + row * s.ow : nullptr, true);
        }
    });
}

template <class T, class Index>
void max_pool2d_backward(const char* op, index_t planes, index_t plane_size, index_t windows, const T* dy,
                         const Index* indices, T* dx) {
    parallel_for_range(planes, static_cast<double>(plane_size + 2 * windows) * element_ns,
                       [&](index_t begin, index_t end) {
                           for (index_t plane = begin; plane < end; ++plane) {
                               T* const to = dx + plane * plane_size;
                               std::fill(to, to + plane_size, T(0));
                               for (index_t i = plane * windows; i < (plane + 1) * windows; ++i) {
                                   const index_t index = indices[i];
                                   if (index == -1) continue;  // a window without a pixel, or cut by ReLU
                                   if (index < 0 || index >= plane_size) refuse_index(op, index, plane_size);
                                   to[index] += dy[i];
                               }
                           }
                       });
}

namespace {

/// Calls body(indices of a plane, what they are counted from) for every plane, once they are known to lie in it.
template <class Body>
void for_planes_of_indices(const char* op, index_t planes, index_t plane_size, index_t windows, const index_t* indices,
                           Body&& body) {
    const double plane_ns = static_cast<double>(plane_size + 2 * windows) * element_ns;
    parallel_for_range(planes, plane_ns, [&](index_t begin, index_t end) {
        for (index_t plane = begin; plane < end; ++plane) {
            const index_t* const first = indices + plane * windows;
            const index_t* const last = first + windows;
            // The sign bit of index or of plane_size - 1 - index; a loop without branches, of any vectors.
            const auto outside = [=](index_t index) {
                const auto bits = static_cast<std::uint64_t>(index);
                return bits | (static_cast<std::uint64_t>(plane_size - 1) - bits);
            };
            constexpr std::uint64_t sign = std::uint64_t(1) << 63;
            std::uint64_t any = 0;
            for (const index_t* index = first; index < last; ++index) any |= outside(*index);
            if (any & sign) {
                refuse(op, "indices holds ",
                       *std::find_if(first, last, [&](index_t index) { return outside(index) & sign; }),
                       ", the planes of the result have ", plane_size,
                       " pixels; pass the indices of max_pool2d, and its input's size as output_size");
            }
            body(plane, first);
        }
    });
}

}  // namespace

template <class T>
void max_unpool2d_forward(index_t planes, index_t plane_size, index_t windows, const T* x, const index_t* indices,
                          T* y) {
    for_planes_of_indices("max_unpool2d", planes, plane_size, windows, indices, [&](index_t plane, const index_t* at) {
        const T* const from = x + plane * windows;
        T* const to = y + plane * plane_size;
        std::fill(to, to + plane_size, T(0));
        for (index_t i = 0; i < windows; ++i) to[at[i]] = from[i];
    });
}

template <class T>
void max_unpool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const index_t* indices,
                           T* dx) {
    const char* const op = "max_unpool2d_backward";
    for_planes_of_indices(op, planes, plane_size, windows, indices, [&](index_t plane, const index_t* at) {
        const T* const from = dy + plane * plane_size;
        T* const to = dx + plane * windows;
        for (index_t i = 0; i < windows; ++i) to[i] = from[at[i]];
    });
}

template void max_unpool2d_forward(index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_unpool2d_forward(index_t, index_t, index_t, const double*, const index_t*, double*);
template void max_unpool2d_backward(index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_unpool2d_backward(index_t, index_t, index_t, const double*, const index_t*, double*);
template void relu_max_pool2d_forward(const PoolShape&, const float*, index_t, float*, std::int32_t*);
template void relu_max_pool2d_forward(const PoolShape&, const double*, index_t, double*, std::int32_t*);
template void max_pool2d_forward(const PoolShape&, const float*, float*, index_t*, bool);
template void max_pool2d_forward(const PoolShape&, const float*, float*, std::int32_t*, bool);
template void max_pool2d_forward(const PoolShape&, const double*, double*, index_t*, bool);
template void max_pool2d_forward(const PoolShape&, const double*, double*, std::int32_t*, bool);
template void max_pool2d_backward(const char*, index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_pool2d_backward(const char*, index_t, index_t, index_t, const float*, const std::int32_t*, float*);
template void max_pool2d_backward(const char*, index_t, index_t, index_t, const double*, const index_t*, double*);
template void max_pool2d_backward(const char*, index_t, index_t, index_t, const double*, const std::int32_t*, double*);

}  // namespace npconv
