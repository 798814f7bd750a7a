// The data gradient of convolution tap by tap, where the input has few channels or dx is much larger than dy.
#include <algorithm>
#include <vector>

#include "conv.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {

// The rows of this matrix product are the (channel, tap) pairs, so that tiles are full even for one channel; its
// columns are output pixels, its reduction runs over the output channels. Each row of the result is added to the pixels
// that its tap meets. They lie in a slab, as in the forward pass: side by side at any stride, with room for the
// padding.
template <class T>
void conv2d_backward_data_by_taps(const ConvShape& s, const T* dy, const T* weight, T* dx) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    const Axis v = forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top);
    const Axis h = forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left);
    const index_t tap_rows = s.cg() * s.kh * s.kw, tiles = ceil_div(tap_rows, kernel.mr), out_plane = s.oh * s.ow;

    // A task makes some rows of one image; what meets them from outside is computed again. The cut depends on the shape
    // alone, because the order of the sums does on the cut.
    const index_t blocks = std::min(ceil_div(s.cg() * s.h * s.w, slab_elements), s.h);
    const index_t reach = s.dilation.h * (s.kh - 1) + 1;
    const index_t most_rows = std::min((ceil_div(s.h, blocks) + reach) / s.stride.h + 1, s.oh);
    const SlabLayout layout(v, h, most_rows, s.ow);
    std::vector<index_t> slab_row, dy_row, packed_row;
    for (index_t c = 0; c < s.cg(); ++c) {
        for (const Tap& tv : v.taps) {
            for (const Tap& th : h.taps) slab_row.push_back(c * layout.channel_stride() + layout.tap_offset(tv, th));
        }
    }
    for (index_t k = 0; k < s.kg(); ++k) {
        dy_row.push_back(k * out_plane);
        packed_row.push_back(k * nr);
    }

    const double task_ns =
        static_cast<double>(most_rows * s.ow * tap_rows) * (static_cast<double>(s.kg()) * fma_ns + element_ns);
    parallel_for(s.n * s.groups * blocks, task_ns, [&](index_t task) {
        const index_t block = task % blocks, group = task / blocks % s.groups, image = task / blocks / s.groups;
        const index_t top = share_begin(block, blocks, s.h), bottom = share_begin(block + 1, blocks, s.h);
        const index_t first = std::clamp<index_t>(-floor_div(v.taps.back().offset - top, s.stride.h), 0, s.oh);
        const index_t last =
            std::clamp<index_t>(floor_div(bottom - 1 - v.taps.front().offset, s.stride.h) + 1, first, s.oh);

        Scratch<T> slab(layout.size(s.cg()) + nr), packed(s.kg() * nr);
        std::fill(slab.data(), slab.data() + layout.size(s.cg()), T(0));
        T tile[max_tile_rows * max_tile_columns];
        std::vector<Segment> segments;
        const T* const gradients = dy + (image * s.k + group * s.kg()) * out_plane;
        const T* const weights = weight + group * s.kg() * tap_rows;
        for (index_t pixel = first * s.ow; pixel < last * s.ow; pixel += nr) {
            const index_t columns = std::min<index_t>(nr, last * s.ow - pixel);
            segments.clear();
            for (index_t column = 0; column < columns;) {
                const index_t y = (pixel + column) / s.ow, x = (pixel + column) % s.ow;
                const index_t length = std::min(columns - column, s.ow - x);
                segments.push_back({(y - first) * layout.width() + x, int(column), int(length)});
                column += length;
            }
            // Panels are read where they are, but whole vectors must not be read behind the end of dy.
            const T* from = gradients + pixel;
            const index_t* row = dy_row.data();
            if (from + dy_row.back() + nr > dy + s.n * s.k * out_plane) {
                std::fill(packed.data(), packed.data() + s.kg() * nr, T(0));
                for (index_t k = 0; k < s.kg(); ++k) {
                    std::copy(from + k * out_plane, from + k * out_plane + columns, packed.data() + k * nr);
                }
                from = packed.data();
                row = packed_row.data();
            }
            for (index_t i = 0; i < tiles; ++i) {
                const index_t r = share_begin(i, tiles, tap_rows), rows = share_begin(i + 1, tiles, tap_rows) - r;
                kernel.gemm_tile[rows](s.kg(), weights + r, tap_rows, from, row, tile, nr, nr, nullptr, false, false,
                                       from, 0);
                kernel.add_columns(rows, tile, segments.data(), int(segments.size()), slab.data(), slab_row.data() + r,
                                   s.kw);
            }
        }
        const Strip strip{image, first, last - first, 0};
        for (index_t c = 0; c < s.cg(); ++c) {
            layout.unfill(strip, slab.data() + c * layout.channel_stride(), top, bottom,
                          dx + ((image * s.groups + group) * s.cg() + c) * s.h * s.w);
        }
    });
}

template void conv2d_backward_data_by_taps(const ConvShape&, const float*, const float*, float*);
template void conv2d_backward_data_by_taps(const ConvShape&, const double*, const double*, double*);

}  // namespace npconv
