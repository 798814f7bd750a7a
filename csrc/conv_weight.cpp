#include "conv_weight.hpp"

#include <algorithm>
#include <vector>

#include "conv.hpp"
#include "conv_1x1.hpp"
#include "conv_batch.hpp"
#include "conv_depthwise.hpp"
#include "conv_patches.hpp"
#include "conv_phases.hpp"
#include "conv_planes.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "winograd.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t weight_grad_pixels = 256;  // output pixels that the weight gradient sums at a time

constexpr index_t least_channels = 16;  // of a task

}  // namespace

index_t partial_sums(const ConvShape& s, index_t size, index_t shares, index_t blocks) {
    // They are written, read again and added; so they are few, unless more of them give more threads work.
    constexpr index_t few_elements = 1 << 18, most_elements = 1 << 20, most = 64;
    const index_t wanted = std::max(few_elements / size, ceil_div(most, shares));
    const index_t memory = std::max(most_elements, 3 * s.k * s.cg() * s.kh * s.kw) / size;
    return std::clamp<index_t>(std::min({wanted, memory, blocks}), 1, most);
}

// dweight^T is a GEMM too: its rows are the (channel, tap) pairs, its columns the output channels, and the reduction
// runs over all output pixels. The left operand is read from the slab, the right one is dy, transposed block by block
// into [pixel][nr]. The bias gradient is one more row, whose "input" is 1 everywhere. Where a kernel is a single pixel,
// there is no slab: the images are read where they lie, and that row is a product of its own.
template <class T>
void conv2d_backward_weight_from(const ConvShape& s, const PackPixels<T>& dy, const T* x, T* dweight, T* dbias,
                                 Algorithm algorithm) {
    const WinogradForm* const form = winograd_weight_form(s, algorithm);
    if (form && dweight && s.n > 0) {
        winograd_backward_weight(s, *form, dy, pixels_of(x, s.c, s.h, s.w), dweight, dbias);
        return;
    }
    const WinogradForm* const of_phases = winograd_weight_form_of_phases(s, algorithm);
    if (of_phases && dweight && s.n > 0) {
        conv2d_backward_weight_by_phases(s, *of_phases, dy, x, dweight, dbias);
        return;
    }
    if constexpr (sizeof(T) == sizeof(float)) {
        if (weight_suits_1x1<T>(s) && dweight && s.n > 0 && backward_weight_1x1(s, dy, x, dweight, dbias)) return;
    }
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    const Axis v = forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top);
    const Axis h = forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left);
    const index_t taps = s.kh * s.kw, in_plane = s.h * s.w;
    const index_t bias_rows = dbias ? 1 : 0, tap_rows = dweight ? s.cg() * taps : 0;
    const index_t panels = ceil_div(s.kg(), nr), ld = panels * nr;
    const index_t partial_size = (bias_rows + tap_rows) * ld;
    if (partial_size == 0) return;

    const index_t width = std::min(s.ow, weight_grad_pixels), col_blocks = ceil_div(s.ow, width);
    const index_t rows = s.n * s.oh;
    const index_t block_rows = std::clamp<index_t>(
        std::min(weight_grad_pixels / width, rows_within(v, h, width, slab_elements)), 1, std::max<index_t>(rows, 1));
    const index_t blocks = ceil_div(rows, block_rows) * col_blocks;
    const bool in_place = pixel_by_pixel(s);
    const index_t shares = s.groups * ceil_div(std::max<index_t>(s.cg(), 1), least_channels);
    const index_t splits = partial_sums(s, s.groups * partial_size, shares, blocks);

    // The channels are dealt to tasks in chunks; each sum is the same however they are.
    const SlabLayout layout(v, h, block_rows, width);
    const index_t most_channels = std::clamp<index_t>((64 << 10) / layout.channel_stride(), 1, s.cg());
    const index_t wanted_chunks = ceil_div(4 * get_num_threads(), splits * s.groups);
    const index_t chunks =
        dweight ? std::max(ceil_div(s.cg(), most_channels), std::min(wanted_chunks, ceil_div(s.cg(), least_channels)))
                : 1;

    Scratch<T> partials(splits * s.groups * partial_size);
    const double task_ns = static_cast<double>(rows * s.ow * s.kg()) * static_cast<double>(bias_rows + tap_rows) *
                           fma_ns / static_cast<double>(splits * chunks);
    parallel_for(splits * s.groups * chunks, task_ns, [&](index_t task) {
        const index_t chunk = task % chunks, group = task / chunks % s.groups, split = task / chunks / s.groups;
        const index_t channel = share_begin(chunk, chunks, s.cg());
        const index_t channels = dweight ? share_begin(chunk + 1, chunks, s.cg()) - channel : 0;
        const bool with_bias = dbias && chunk == 0;
        const bool row_of_ones = with_bias && !in_place;
        const index_t chunk_rows = channels * taps + (row_of_ones ? 1 : 0);
        const index_t row_stride = in_place ? s.w : layout.width();
        const index_t channel_stride = in_place ? in_plane : layout.channel_stride();
        T* const bias_sums = partials.data() + (split * s.groups + group) * partial_size;
        T* const sums = bias_sums + (row_of_ones ? 0 : bias_rows + channel * taps) * ld;
        if (with_bias) std::fill(bias_sums, bias_sums + ld, T(0));
        std::fill(sums, sums + chunk_rows * ld, T(0));

        // Where the bias' row of ones lies: behind the slab and what fill() may write behind it.
        const index_t ones = layout.size(channels) + max_tile_columns;
        Scratch<T> slab(in_place ? 0 : ones + layout.channel_stride());
        if (row_of_ones) std::fill(slab.data() + ones, slab.data() + ones + layout.channel_stride(), T(1));
        std::vector<index_t> in_row;
        if (row_of_ones) in_row.push_back(ones);
        for (index_t c = 0; c < channels; ++c) {
            for (const Tap& tv : v.taps) {
                for (const Tap& th : h.taps) {
                    in_row.push_back(c * channel_stride + (in_place ? 0 : layout.tap_offset(tv, th)));
                }
            }
        }
        Scratch<T> dy_panel((block_rows * width + 1) * nr);  // one pixel behind may be written, too
        std::vector<Strip> strips;

        const index_t last_block = share_begin(split + 1, splits, blocks);
        for (index_t index = share_begin(split, splits, blocks); index < last_block; ++index) {
            const index_t row = index / col_blocks * block_rows, col = index % col_blocks * width;
            const Block block{row, std::min(row + block_rows, rows), col, std::min(col + width, s.ow)};
            cut_into_strips(block, s.oh, strips);
            layout.place(strips);
            const T* const images = x + (group * s.cg() + channel) * in_plane;
            if (!in_place) layout.fill(block, strips, images, s.c * in_plane, channels, T(0), slab.data());
            for (index_t panel = 0; panel < panels; ++panel) {
                const index_t k = panel * nr, k_count = std::min<index_t>(nr, s.kg() - k);
                T* packed = dy_panel.data();
                for (const Strip& strip : strips) {
                    dy(strip, col, block.width(), group * s.kg() + k, k_count, packed);
                    packed += strip.rows * block.width() * nr;
                }
                if (with_bias && in_place) {
                    add_pixels(dy_panel.data(), block.rows() * block.width(), k_count, bias_sums + k);
                }
                const index_t tiles = ceil_div(chunk_rows, kernel.mr);
                for (index_t tile = 0; tile < tiles; ++tile) {
                    const index_t r = share_begin(tile, tiles, chunk_rows);
                    const index_t tile_rows = share_begin(tile + 1, tiles, chunk_rows) - r;
                    const auto grad_tile = k_count <= kernel.lanes ? kernel.narrow_row_gemm_tile[tile_rows]
                                                                   : kernel.row_gemm_tile[tile_rows];
                    packed = dy_panel.data();
                    for (const Strip& strip : strips) {
                        const T* const pixels = in_place ? images + strip.image * s.c * in_plane + strip.row * s.w + col
                                                         : slab.data() + strip.source;
                        grad_tile(strip.rows, block.width(), pixels, in_row.data() + r, row_stride, packed, nr,
                                  sums + r * ld + k, ld, true);
                        packed += strip.rows * block.width() * nr;
                    }
                }
            }
        }
    });

    // Add the partial sums in order, turn the result over into dweight (k, channel, tap).
    const double sum_ns = static_cast<double>(splits * (bias_rows + tap_rows) * nr) * element_ns;
    parallel_for(s.groups * panels, sum_ns, [&](index_t task) {
        const index_t group = task / panels, k = task % panels * nr, k_count = std::min<index_t>(nr, s.kg() - k);
        T* const total = partials.data() + group * partial_size + k;
        for (index_t split = 1; split < splits; ++split) {
            const T* part = total + split * s.groups * partial_size;
            for (index_t r = 0; r < bias_rows + tap_rows; ++r) {
                for (index_t j = 0; j < nr; ++j) total[r * ld + j] += part[r * ld + j];
            }
        }
        if (dbias) std::copy(total, total + k_count, dbias + group * s.kg() + k);
        if (dweight) {
            kernel.pack_transposed(total + bias_rows * ld, ld, tap_rows, k_count,
                                   dweight + (group * s.kg() + k) * tap_rows, tap_rows, tap_rows);
        }
    });
}

template <class T>
void conv2d_backward_weight(const ConvShape& shape, const T* dy, const T* x, T* dweight, T* dbias,
                            Algorithm algorithm) {
    if (!dweight && !dbias) return;
    const TypedKernels<T>& kernel = kernels_of<T>();
    if (const index_t batch = images_by_batch<T>(shape, algorithm, winograd_weight_form(shape, algorithm))) {
        conv2d_backward_weight_by_batch<T>(with_images(shape, batch), dy, nullptr, nullptr, x, dweight, dbias);
        if (batch == shape.n) return;
        add_gradients(shape, dweight, dbias, [&](T* more_dweight, T* more_dbias) {
            conv2d_backward_weight(with_images(shape, shape.n - batch), dy + batch * shape.k * shape.oh * shape.ow,
                                   x + batch * shape.c * shape.h * shape.w, more_dweight, more_dbias, algorithm);
        });
        return;
    }
    if (dweight && suits_patches<T>(shape, algorithm, Pass::backward_weight)) {
        conv2d_backward_weight_by_patches(shape, dy, x, dweight, dbias);
        return;
    }
    const ConvShape s = in_one_row(shape);
    if (suits_depthwise<T>(s, Pass::backward_weight)) {
        conv2d_backward_weight_depthwise(s, dy, x, dweight, dbias);
        return;
    }
    const index_t plane = s.oh * s.ow;
    if (weight_suits_planes(s)) {
        const auto plane_of = [&](index_t image, index_t channel, T* buffer) -> const T* {
            const T* const from = dy + (image * s.k + channel) * plane;
            const bool readable = dy + s.n * s.k * plane - from >= plane + kernel.lanes;  // a vector behind it
            return readable ? from : std::copy(from, from + plane, buffer) - plane;
        };
        conv2d_backward_weight_by_planes<T>(s, plane_of, x, dweight, dbias);
        return;
    }
    conv2d_backward_weight_from<T>(s, pixels_of(dy, s.k, s.oh, s.ow), x, dweight, dbias, algorithm);
}

template void conv2d_backward_weight_from(const ConvShape&, const PackPixels<float>&, const float*, float*, float*,
                                          Algorithm);
template void conv2d_backward_weight_from(const ConvShape&, const PackPixels<double>&, const double*, double*, double*,
                                          Algorithm);
template void conv2d_backward_weight(const ConvShape&, const float*, const float*, float*, float*, Algorithm);
template void conv2d_backward_weight(const ConvShape&, const double*, const double*, double*, double*, Algorithm);

}  // namespace npconv
