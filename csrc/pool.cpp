#include "pool.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "dispatch.hpp"
#include "elementwise.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t block_windows = 1024;    // whose pixels stay in the L1 cache
constexpr index_t task_windows = 1 << 15;  // what a thread takes at a time
constexpr index_t checked_windows = 64;    // whose indices are looked at, and then used

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

/// The part of a window that lies inside the image, along one axis.
struct Inside {
    index_t begin, end;  // of its taps
};

Inside inside_of(index_t start, index_t kernel, index_t in) {
    return {std::max<index_t>(-start, 0), std::min(in - start, kernel)};
}

/// Windows side by side that have the same taps inside the image, along the horizontal axis.
struct Columns {
    index_t begin, end;
    Inside inside;
    std::vector<index_t> offsets;  // of those taps, from the first one on; of the upper rows only, if there are fewer
    std::vector<std::int32_t> codes;
};

std::vector<Columns> columns_of(const PoolShape& s, index_t begin, index_t end) {
    std::vector<Columns> columns;
    for (index_t j = begin; j < end; ++j) {
        const Inside inside = inside_of(j * s.stride.w - s.pad.w, s.kernel.w, s.w);
        if (!columns.empty() && columns.back().inside.begin == inside.begin &&
            columns.back().inside.end == inside.end) {
            ++columns.back().end;
            continue;
        }
        PoolShape narrower = s;
        narrower.kernel.w = inside.end - inside.begin;
        const std::vector<index_t> offsets = window_offsets(narrower, s.w, 1);
        columns.push_back({j, j + 1, inside, offsets, {offsets.begin(), offsets.end()}});
    }
    return columns;
}

/// One row of windows, read where they are.
template <class T>
void pool_row(const PoolShape& s, const std::vector<Columns>& columns, index_t oy, const T* plane, T* y, const T* y_end,
              index_t* indices) {
    const index_t top = oy * s.stride.h - s.pad.h;
    const Inside rows = inside_of(top, s.kernel.h, s.h);
    const auto max_pool_rows = kernels_of<T>().max_pool_rows[s.stride.w];
    for (const Columns& c : columns) {
        const index_t start = (top + rows.begin) * s.w + c.begin * s.stride.w - s.pad.w + c.inside.begin;
        const auto taps = static_cast<int>((rows.end - rows.begin) * (c.inside.end - c.inside.begin));
        // What a vector holds beyond the last window is overwritten by the windows that follow.
        max_pool_rows(taps, plane + start, c.offsets.data(), c.codes.data(), nullptr, 1, 0, 0, c.end - c.begin,
                      y + c.begin, y_end, start, s.stride.w, indices ? indices + c.begin : nullptr);
    }
}

/// The same pooling without taps that meet no pixel in any window: a kernel may be much larger than its image.
PoolShape without_idle_taps(PoolShape s) {
    const auto cut = [](index_t in, index_t out, index_t stride, index_t dilation, index_t& kernel, index_t& pad) {
        const index_t first = std::max<index_t>(pad - (out - 1) * stride, 0) / dilation;  // of the last window
        const index_t last = std::min((in - 1 + pad) / dilation, kernel - 1);             // of the first one
        kernel = std::max<index_t>(last - first + 1, 1);
        pad -= first * dilation;
    };
    cut(s.h, s.oh, s.stride.h, s.dilation.h, s.kernel.h, s.pad.h);
    cut(s.w, s.ow, s.stride.w, s.dilation.w, s.kernel.w, s.pad.w);
    return s;
}

}  // namespace

template <class T>
void max_pool2d_forward(const PoolShape& shape, const T* x, T* y, index_t* indices) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const PoolShape s = without_idle_taps(shape);
    // Every plane is an image of one channel; the slab pads it with minus infinity.
    const Axis v = forward_axis(s.h, s.oh, s.kernel.h, s.stride.h, s.dilation.h, s.pad.h);
    const Axis h = forward_axis(s.w, s.ow, s.kernel.w, s.stride.w, s.dilation.w, s.pad.w);
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
    // Windows within the image are read where they are. So are padded ones, those at the edges apart, where the slab
    // would have to sort pixels by phase, rows are long, and each window has some pixel (with dilation it might not).
    const bool inside = windows_inside(s);
    const bool dilated = s.dilation.h > 1 || s.dilation.w > 1;
    const bool edges = !inside && s.stride.w == 2 && !dilated && s.ow >= 2 * kernel.lanes;
    const bool suits = edges || (inside && s.stride.w <= 2);
    std::vector<std::vector<Columns>> columns;
    for (index_t i = 0; edges && i < col_blocks; ++i) {
        columns.push_back(columns_of(s, i * width, std::min((i + 1) * width, s.ow)));
    }
    const index_t whole_vectors = s.stride.w * (ceil_div(width, kernel.lanes) * kernel.lanes + kernel.lanes);

    const index_t task_rows = ceil_div(std::max<index_t>(task_windows / width, 1), block_rows) * block_rows;
    const double task_ns = static_cast<double>(task_rows * width * taps) * element_ns;
    parallel_for(ceil_div(rows, task_rows) * col_blocks, task_ns, [&](index_t task) {
        const index_t col = task % col_blocks * width, first_row = task / col_blocks * task_rows;
        const index_t last_row = std::min(first_row + task_rows, rows);
        const index_t n = std::min(width, s.ow - col);
        // A vector may be stored beyond the end of all rows of full width but the last.
        const T* const task_end = y + last_row * s.ow;
        Scratch<T> slab(layout.channel_stride() + max_tile_columns * 2);
        Scratch<std::int32_t> first(padded ? width + max_tile_columns : 0);
        std::vector<Strip> strips;

        for (index_t row = first_row; row < last_row; row += block_rows) {
            const Block block{row, std::min(row + block_rows, last_row), col, col + n};
            cut_into_strips(block, s.oh, strips);
            // Not in place if a whole vector could reach behind the array.
            const Strip& last = strips.back();
            const index_t last_window = (last.image * s.h + (last.row + last.rows - 1) * s.stride.h) * s.w;
            const index_t last_tap = codes.back() + whole_vectors + col * s.stride.w;
            const bool in_place = suits && last_window + last_tap <= planes * s.h * s.w;
            if (!in_place) {
                layout.place(strips);
                layout.fill(block, strips, x, s.h * s.w, 1, -std::numeric_limits<T>::infinity(), slab.data());
            }
            for (const Strip& strip : strips) {
                for (index_t i = 0, together = 1; i < strip.rows; i += together) {
                    const index_t oy = strip.row + i, start = oy * s.stride.h * s.w + col * s.stride.w;
                    // Rows of full width follow each other, and below the padding have their first pixels alike.
                    const bool alike = !padded || !indices || (oy * s.stride.h >= s.pad.h && !dilated);
                    together = col_blocks == 1 && alike && !(in_place && edges) ? strip.rows - i : 1;
                    const index_t out = (strip.image * s.oh + oy) * s.ow + col;
                    const T* const y_end = col_blocks == 1 ? task_end : y + out + n;
                    const T* const plane = x + strip.image * s.h * s.w;
                    if (in_place && edges) {
                        pool_row(s, columns[static_cast<std::size_t>(task % col_blocks)], oy, plane, y + out - col,
                                 y_end, indices ? indices + out - col : nullptr);
                        continue;
                    }
                    if (indices && padded) first_offsets(s, oy, col, n, first.data());
                    kernel.max_pool_rows[in_place ? s.stride.w : 1](
                        taps, in_place ? plane + start : slab.data() + strip.source + i * layout.width(),
                        in_place ? plane_offsets.data() : slab_offsets.data(), codes.data(),
                        padded ? first.data() : nullptr, together, in_place ? s.stride.h * s.w : layout.width(),
                        s.stride.h * s.w, n, y + out, y_end, start - s.pad.h * s.w - s.pad.w, s.stride.w,
                        indices ? indices + out : nullptr);
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
void relu_max_pool2d_forward(const PoolShape& s, const T* x, index_t pitch, T* y, TapWord* taps) {
    const std::vector<index_t> offsets = window_offsets(s, pitch, 1);
    const auto count = static_cast<int>(offsets.size());
    const auto relu_max_pool_rows = kernels_of<T>().relu_max_pool_rows[s.stride.w];
    const double plane_ns = static_cast<double>(s.oh * s.ow * count) * element_ns;
    parallel_for_range(s.n * s.c, plane_ns, [&](index_t begin, index_t end) {
        const T* const y_end = y + end * s.oh * s.ow;
        for (index_t plane = begin; plane < end; ++plane) {
            TapWord* const words = taps ? taps + plane * s.oh * words_of(s.ow) : nullptr;
            relu_max_pool_rows(count, x + plane * s.h * pitch, offsets.data(), s.oh, s.stride.h * pitch, s.ow,
                               y + plane * s.oh * s.ow, y_end, reinterpret_cast<std::uint8_t*>(words));
        }
    });
}

template <class T>
void cut_maxima(const PoolShape& s, T* y, const index_t* indices, TapWord* taps) {
    if (!taps) {
        relu_forward(s.n * s.c * s.oh * s.ow, y, y);
        return;
    }
    const std::vector<index_t> offsets = window_offsets(s, s.w, 1);
    std::vector<std::uint8_t> tap_at(static_cast<std::size_t>(offsets.back() + 1));  // by the place in a window
    for (std::size_t t = 0; t < offsets.size(); ++t) {
        tap_at[static_cast<std::size_t>(offsets[t])] = static_cast<std::uint8_t>(t);
    }
    const index_t taps_of_row = words_of(s.ow) * windows_per_word;
    parallel_for_range(s.n * s.c * s.oh, static_cast<double>(2 * s.ow) * element_ns, [&](index_t begin, index_t end) {
        auto* tap = reinterpret_cast<std::uint8_t*>(taps) + begin * taps_of_row;
        for (index_t row = begin; row < end; ++row, tap += taps_of_row) {
            const index_t start = (row % s.oh * s.stride.h - s.pad.h) * s.w - s.pad.w;
            for (index_t w = 0; w < s.ow; ++w) {
                T& maximum = y[row * s.ow + w];
                const bool cut = maximum <= 0;
                const index_t place = indices[row * s.ow + w] - (start + w * s.stride.w);
                tap[w] = cut ? no_tap : tap_at[static_cast<std::size_t>(place)];
                maximum = cut ? T(0) : maximum;
            }
            std::fill(tap + s.ow, tap + taps_of_row, std::uint8_t(0));
        }
    });
}

template <class T>
void relu_max_pool2d_backward(const TapPixels& pixels, index_t planes, const T* dy, const TapWord* taps, T* dx) {
    const PoolShape& s = pixels.shape();
    const index_t plane_size = s.h * s.w, windows = s.oh * s.ow, words = words_of(s.ow);
    parallel_for_range(
        planes, static_cast<double>(plane_size + 2 * windows) * element_ns, [&](index_t begin, index_t end) {
            for (index_t plane = begin; plane < end; ++plane) {
                T* const to = dx + plane * plane_size;
                std::fill(to, to + plane_size, T(0));
                for (index_t row = 0; row < s.oh; ++row) {
                    const T* const from = dy + plane * windows + row * s.ow;
                    pixels.for_row(row, taps + (plane * s.oh + row) * words, 1, [&](index_t w, index_t pixel) {
                        if (pixel >= 0 && pixel < plane_size) to[pixel] += from[w];
                    });
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
                        refuse("max_pool2d_backward", "indices holds ", index, ", the planes they point into have ",
                               plane_size, " pixels; pass what the forward operator returned for this shape");
                    }
                    to[index] += dy[i];
                }
            }
        });
}

namespace {

/// Calls body(plane, begin, end) for a few windows of a plane after the other, once their indices are known to lie in
/// it; for a plane without windows, too.
template <class Body>
void for_windows(const char* op, index_t planes, index_t plane_size, index_t windows, const index_t* indices,
                 Body&& body) {
    const double plane_ns = static_cast<double>(plane_size + 2 * windows) * element_ns;
    parallel_for_range(planes, plane_ns, [&](index_t first_plane, index_t last_plane) {
        // The sign bit of index or of plane_size - 1 - index; a loop without branches, of any vectors.
        const auto outside = [=](index_t index) {
            const auto bits = static_cast<std::uint64_t>(index);
            return bits | (static_cast<std::uint64_t>(plane_size - 1) - bits);
        };
        constexpr std::uint64_t sign = std::uint64_t(1) << 63;
        for (index_t plane = first_plane; plane < last_plane; ++plane) {
            const index_t* const index = indices + plane * windows;
            index_t begin = 0, end = 0;
            do {
                end = std::min(begin + checked_windows, windows);
                std::uint64_t any = 0;
                for (index_t i = begin; i < end; ++i) any |= outside(index[i]);
                if (any & sign) {
                    refuse(op, "indices holds ",
                           *std::find_if(index + begin, index + end, [&](index_t i) { return outside(i) & sign; }),
                           ", the planes of the result have ", plane_size,
                           " pixels; pass the indices of max_pool2d, and its input's size as output_size");
                }
                body(plane, begin, end);
                begin = end;
            } while (begin < windows);
        }
    });
}

}  // namespace

template <class T>
void max_unpool2d_forward(index_t planes, index_t plane_size, index_t windows, const T* x, const index_t* indices,
                          T* y) {
    for_windows("max_unpool2d", planes, plane_size, windows, indices, [&](index_t plane, index_t begin, index_t end) {
        const T* const from = x + plane * windows;
        const index_t* const at = indices + plane * windows;
        T* const to = y + plane * plane_size;
        if (begin == 0) std::fill(to, to + plane_size, T(0));
        for (index_t i = begin; i < end; ++i) to[at[i]] = from[i];
    });
}

template <class T>
void max_unpool2d_backward(index_t planes, index_t plane_size, index_t windows, const T* dy, const index_t* indices,
                           T* dx) {
    const char* const op = "max_unpool2d_backward";
    for_windows(op, planes, plane_size, windows, indices, [&](index_t plane, index_t begin, index_t end) {
        const T* const from = dy + plane * plane_size;
        const index_t* const at = indices + plane * windows;
        T* const to = dx + plane * windows;
        for (index_t i = begin; i < end; ++i) to[i] = from[at[i]];
    });
}

template void max_unpool2d_forward(index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_unpool2d_forward(index_t, index_t, index_t, const double*, const index_t*, double*);
template void max_unpool2d_backward(index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_unpool2d_backward(index_t, index_t, index_t, const double*, const index_t*, double*);
template void relu_max_pool2d_forward(const PoolShape&, const float*, index_t, float*, TapWord*);
template void relu_max_pool2d_forward(const PoolShape&, const double*, index_t, double*, TapWord*);
template void cut_maxima(const PoolShape&, float*, const index_t*, TapWord*);
template void cut_maxima(const PoolShape&, double*, const index_t*, TapWord*);
template void relu_max_pool2d_backward(const TapPixels&, index_t, const float*, const TapWord*, float*);
template void relu_max_pool2d_backward(const TapPixels&, index_t, const double*, const TapWord*, double*);
template void max_pool2d_forward(const PoolShape&, const float*, float*, index_t*);
template void max_pool2d_forward(const PoolShape&, const double*, double*, index_t*);
template void max_pool2d_backward(index_t, index_t, index_t, const float*, const index_t*, float*);
template void max_pool2d_backward(index_t, index_t, index_t, const double*, const index_t*, double*);

}  // namespace npconv
