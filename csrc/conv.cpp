#include "conv.hpp"

#include <algorithm>
#include <vector>

#include "conv_1x1.hpp"
#include "conv_batch.hpp"
#include "conv_channels.hpp"
#include "conv_depthwise.hpp"
#include "conv_patches.hpp"
#include "conv_phases.hpp"
#include "conv_planes.hpp"
#include "conv_windows.hpp"
#include "correlation.hpp"
#include "dispatch.hpp"
#include "panels.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "winograd.hpp"
#include "winograd_1d.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// Sizes of the pieces that are worked on at a time. A packed panel of reduction_block x nr stays in the L1 cache while
// tile after tile of weights passes by; block_panels panels of output pixels share one slab, which stays in L2, as do
// the weights that all of them meet before any others.
constexpr index_t reduction_block = 384;
constexpr index_t block_panels = 16;
constexpr index_t block_weights = 1 << 15;

/// How the work is cut. Each result is summed by one thread in one order whatever the cut, so it may depend on the
/// number of threads.
struct Cut {
    index_t block_rows, block_width;  // output rows and columns of a block
    index_t row_blocks, col_blocks;
    index_t tile_groups;  // how many tasks share the output channels of a block
    bool in_place;        // whether panels are read from the slab as they are
};

/// Chooses the cut with the shortest predicted time, in cycles per step of the reduction (AVX-512 on a recent server).
template <class T>
Cut choose_cut(const Correlation<T>& c, index_t rows, index_t tiles, int nr, int threads) {
    const index_t width = std::min(c.h.out, block_panels * nr), col_blocks = ceil_div(c.h.out, width);
    const auto taps = static_cast<double>(c.taps()) + 1, reduction = static_cast<double>(c.reduction()) + 1;
    const auto runs = 1 + static_cast<double>(nr) / static_cast<double>(width);  // rows that a panel touches
    const auto tile_rows = static_cast<double>(c.out_channels) / static_cast<double>(tiles);
    const double tile = std::max(tile_rows, 4.0);  // below 4 rows the latency of the multiply-adds shows
    const double pack = 4 + 2 * runs;              // copying one row of a panel
    const double scatter = c.loose ? 0 : 25 * runs * tile_rows / reduction;  // storing a tile run by run, not whole
    Cut cut{};
    double best = -1;
    for (index_t tile_groups = 1; tile_groups <= std::min<index_t>(tiles, threads); tile_groups *= 2) {
        const auto tiles_here = static_cast<double>(ceil_div(tiles, tile_groups));
        for (index_t panels = 1; panels <= block_panels; ++panels) {
            const index_t block_rows = std::min(
                {std::max<index_t>(panels * nr / width, 1), rows, rows_within(c.v, c.h, width, slab_elements)});
            const index_t row_blocks = ceil_div(rows, block_rows), slab_width = width + c.h.reach;
            const index_t rounds = ceil_div(row_blocks * col_blocks * c.groups * tile_groups, threads);
            const auto fill = 8 * static_cast<double>((block_rows + c.v.reach) * slab_width) / (nr * taps);
            for (const bool in_place : {false, true}) {
                const index_t columns = in_place ? block_rows * slab_width - c.h.reach : block_rows * width;
                const double panel = tiles_here * (in_place ? tile + scatter : tile) + (in_place ? 0 : pack);
                const double time =
                    static_cast<double>(rounds) * (static_cast<double>(ceil_div(columns, nr)) * panel + fill);
                if (best < 0 || time < best) {
                    best = time;
                    cut = {block_rows, width, row_blocks, col_blocks, tile_groups, in_place};
                }
            }
        }
    }
    return cut;
}

/// Pixels of a channel.
struct Ahead {
    index_t begin, end;
};

/// What is copied after the first `k` steps of a block's reduction, of its next channel; none but for a kernel of one
/// pixel. This one makes so few sums of a pixel that waiting for its channels, each in pages of its own, shows; so a
/// line of each is fetched with every tile.
template <class T>
Ahead pixels_ahead(const Correlation<T>& c, const Block& block, index_t group, index_t k) {
    if (c.taps() != 1 || c.v.out != 1 || c.h.in != c.h.out) return {0, 0};
    const bool last_step = k == c.reduction(), last_block = block.col_end == c.h.out;
    const index_t row = last_step && last_block ? block.row_end : block.row_begin;
    const index_t col = !last_step ? block.col_begin : last_block ? 0 : block.col_end;
    const index_t channel = group * c.in_channels + (last_step ? 0 : k);
    if (row >= c.images) return {0, 0};
    const index_t begin = (row * c.groups * c.in_channels + channel) * c.v.in * c.h.in + col;
    return {begin, begin + std::min(block.width(), c.h.out - col)};
}

template <class T>
void correlate_gemm(const Correlation<T>& c) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    constexpr index_t line = 64 / sizeof(T);
    const index_t rows = c.images * c.v.out;
    if (rows == 0 || c.h.out == 0) return;
    const index_t taps = c.taps(), reduction = c.reduction(), tiles = ceil_div(c.out_channels, kernel.mr);
    const index_t in_plane = c.v.in * c.h.in, out_plane = c.out_h * c.out_w;
    const Cut cut = choose_cut(c, rows, tiles, nr, get_num_threads());
    const ResultLayout results{c.groups * c.out_channels * out_plane, c.v.first * c.out_w + c.h.first,
                               c.v.step * c.out_w, c.h.step, c.loose};

    // Tiles share the output channels evenly (64 in tiles of at most 14 rows: 12, 13, 13, 13, 13), so none is padded.
    Scratch<index_t> first_row(tiles + 1);
    for (index_t i = 0; i <= tiles; ++i) first_row[i] = share_begin(i, tiles, c.out_channels);
    Scratch<T> weights(c.groups * c.out_channels * reduction);  // tile by tile
    const double tile_ns = static_cast<double>(c.out_channels * reduction) * element_ns / static_cast<double>(tiles);
    parallel_for(c.groups * tiles, tile_ns, [&](index_t task) {
        const index_t group = task / tiles, m = first_row[task % tiles], tile_rows = first_row[task % tiles + 1] - m;
        pack_weights(c, group, m, tile_rows, tile_rows, weights.data() + (group * c.out_channels + m) * reduction);
    });

    const SlabLayout layout(c.v, c.h, cut.block_rows, cut.block_width);
    std::vector<index_t> tap_offsets;
    for (const Tap& v : c.v.taps) {
        for (const Tap& h : c.h.taps) tap_offsets.push_back(layout.tap_offset(v, h));
    }
    // A step of the reduction is a few whole channels; of a kernel larger than that, a part of one or two channels.
    const index_t most_channels = std::clamp<index_t>(reduction_block / std::max<index_t>(taps, 1), 1, c.in_channels);
    const index_t step_channels = ceil_div(c.in_channels, ceil_div(c.in_channels, most_channels));
    const bool parts = taps > reduction_block;
    const index_t depth = parts ? reduction_block : step_channels * taps;
    const index_t slab_channels = parts ? 2 : step_channels;

    const index_t tiles_at_once = std::max<index_t>(block_weights / (kernel.mr * std::max<index_t>(depth, 1)), 1);

    const index_t tasks = cut.row_blocks * cut.col_blocks * c.groups * cut.tile_groups;
    const double task_ns =
        static_cast<double>(cut.block_rows * cut.block_width * ceil_div(c.out_channels, cut.tile_groups)) *
        static_cast<double>(reduction) * fma_ns;
    parallel_for(tasks, task_ns, [&](index_t task) {
        const index_t tile_group = task % cut.tile_groups;
        const index_t group = task / cut.tile_groups % c.groups;
        const index_t block_index = task / cut.tile_groups / c.groups;
        const index_t row = block_index / cut.col_blocks * cut.block_rows;
        const index_t col = block_index % cut.col_blocks * cut.block_width;
        const Block block{row, std::min(row + cut.block_rows, rows), col, std::min(col + cut.block_width, c.h.out)};

        Scratch<T> slab(layout.size(slab_channels) + nr);
        Scratch<T> packed(depth * nr + nr);
        Scratch<index_t> offsets(2 * depth);
        index_t* const slab_row = offsets.data();
        index_t* const packed_row = slab_row + depth;
        for (index_t i = 0; i < depth; ++i) packed_row[i] = i * nr;
        T tile_buffer[max_tile_rows * max_tile_columns];
        const index_t first_tile = share_begin(tile_group, cut.tile_groups, tiles);
        const index_t last_tile = share_begin(tile_group + 1, cut.tile_groups, tiles);

        std::vector<Strip> strips;
        cut_into_strips(block, c.v.out, strips);
        layout.place(strips);
        layout.clear_behind(strips, slab_channels, nr, slab.data());
        if (!cut.in_place) packed.clear();  // columns behind the end of a block are computed, too
        Panels panels;
        panels.cut(block, strips, layout.width(), results, nr, cut.in_place);

        // Even an empty reduction is run once: it writes the zeros of pixels that no tap reaches.
        index_t k = 0;
        do {
            const index_t kc = std::min(depth, reduction - k);
            if (kc > 0) {
                index_t channel = k / taps, tap = k % taps, offset = 0;
                const index_t channels = (k + kc - 1) / taps + 1 - channel;
                layout.fill(block, strips, c.in + (group * c.in_channels + channel) * in_plane,
                            c.groups * c.in_channels * in_plane, channels, T(0), slab.data());
                for (index_t i = 0; i < kc; ++i) {
                    slab_row[i] = offset + tap_offsets[static_cast<std::size_t>(tap)];
                    if (++tap == taps) tap = 0, offset += layout.channel_stride();
                }
            }
            const bool last_step = k + kc == reduction;
            Ahead next = pixels_ahead(c, block, group, k + kc);
            const auto multiply = [&](index_t first, index_t last) {
                for (const Panel& panel : panels.list) {
                    // A panel whose pixels lie side by side is read where it is, any other one is packed.
                    const T* columns = slab.data() + panel.source;
                    const index_t* column_row = slab_row;
                    if (!cut.in_place && panel.sources > 1) {
                        kernel.pack_columns(kc, slab.data(), slab_row, panels.sources(panel), panel.sources,
                                            packed.data());
                        columns = packed.data();
                        column_row = packed_row;
                    }
                    const Segment* const to = panels.results(panel);
                    const bool relu = c.relu && last_step;
                    for (index_t tile = first; tile < last; ++tile) {
                        const index_t m = first_row[tile], tile_rows = first_row[tile + 1] - m;
                        const index_t channel = group * c.out_channels + m;
                        const T* a = weights.data() + channel * reduction + k * tile_rows;
                        const T* bias = c.bias ? c.bias + channel : nullptr;
                        T* out = c.out + channel * out_plane;
                        const bool narrow = panel.columns <= kernel.lanes;
                        const auto gemm_tile =
                            narrow ? kernel.narrow_gemm_tile[tile_rows] : kernel.gemm_tile[tile_rows];
                        const bool more = next.begin < next.end;
                        const T* const ahead = more ? c.in + next.begin : a;
                        const index_t ld_ahead = more ? in_plane : 0;
                        next.begin += line;
                        if (panel.results == 1 && c.h.step == 1) {
                            gemm_tile(kc, a, tile_rows, columns, column_row, out + to->at, out_plane, panel.columns,
                                      bias, k > 0, relu, ahead, ld_ahead);
                        } else {
                            gemm_tile(kc, a, tile_rows, columns, column_row, tile_buffer, nr,
                                      narrow ? kernel.lanes : nr, nullptr, false, false, ahead, ld_ahead);
                            kernel.store_columns(tile_buffer, nr, tile_rows, to, panel.results, c.h.step, bias, k > 0,
                                                 relu, out, out_plane);
                        }
                    }
                }
            };
            for (index_t tile = first_tile; tile < last_tile; tile += tiles_at_once) {
                multiply(tile, std::min(tile + tiles_at_once, last_tile));
            }
            k += kc;
        } while (k < reduction);
    });
}

/// Whether the data gradient is better made tap by tap. It is for few input channels (measured: 1.1 to 3 times as
/// fast), and where dx is so much larger than dy that a correlation would mostly multiply padding (1.2 to 2.7 times).
bool suits_taps(const ConvShape& s) {
    if (s.cg() <= 4 && s.kg() >= 4 * s.cg()) return true;
    if (s.stride.h > 1 || s.stride.w > 1 || s.cg() > 64) return false;
    const double area = static_cast<double>(s.h * s.w) / static_cast<double>(s.oh * s.ow);
    return area * (1 + 4.0 / static_cast<double>(s.cg())) >= 1.6 + 16.0 / static_cast<double>(s.kg());
}

}  // namespace

template <class T>
Way way_of(const Correlation<T>& c, const WinogradForm* form) {
    // With stride 1 fewer multiplications gain more than quicker ones.
    const bool by_amx = suits_1x1(c) || ((!form || form->stride > 1) && suits_windows(c));
    if (by_amx) return Way::amx;
    if (form) return form == &winograd_1d ? Way::winograd_1d : Way::winograd;
    return suits_planes(c) ? Way::planes : suits_channels(c) ? Way::channels : Way::gemm;
}

template <class T>
void correlate(const Correlation<T>& c, const WinogradForm* form) {
    switch (way_of(c, form)) {
        case Way::amx:
            if constexpr (sizeof(T) == sizeof(float)) {
                for (const index_t image : c.taps() == 1 ? correlate_1x1(c) : correlate_windows(c)) {
                    Correlation<T> again = c;
                    again.images = 1;
                    again.in += image * c.groups * c.in_channels * c.v.in * c.h.in;
                    again.out += image * c.groups * c.out_channels * c.out_h * c.out_w;
                    correlate_gemm(again);
                }
            }
            return;
        case Way::winograd:
            winograd_correlate(c, *form, pixels_of(c.in, c.groups * c.in_channels, c.v.in, c.h.in), results_of(c));
            return;
        case Way::winograd_1d:
            winograd_1d_correlate(c);
            return;
        case Way::planes:
            correlate_planes(std::vector{c});
            return;
        case Way::channels:
            correlate_along_channels(c);
            return;
        case Way::gemm:
            correlate_gemm(c);
            return;
    }
}

ConvShape in_one_row(const ConvShape& s) {
    ConvShape row = s;
    if (pixel_by_pixel(s)) {
        row.w = row.ow = s.h * s.w;
        row.h = row.oh = 1;
    }
    return row;
}

template <class T>
void fill_planes(index_t images, index_t channels, index_t plane, const T* values, T* planes) {
    parallel_for(images * channels, static_cast<double>(plane) * element_ns, [&](index_t i) {
        if (values) {
            std::fill(planes + i * plane, planes + (i + 1) * plane, values[i % channels]);
        } else {
            std::fill(planes + i * plane, planes + (i + 1) * plane, T(0));  // known to be zero, this is a memset
        }
    });
}

template <class T>
void conv2d_forward(const ConvShape& shape, const T* x, const T* weight, const T* bias, T* y, Algorithm algorithm,
                    bool relu) {
    const WinogradForm* const form = winograd_form(shape, algorithm);
    if (const index_t batch = images_by_batch<T>(shape, algorithm, form)) {
        conv2d_forward_by_batch<T>(with_images(shape, batch), x, weight, bias, relu, nullptr, y, nullptr);
        if (batch == shape.n) return;
        conv2d_forward(with_images(shape, shape.n - batch), x + batch * shape.c * shape.h * shape.w, weight, bias,
                       y + batch * shape.k * shape.oh * shape.ow, algorithm, relu);
        return;
    }
    if (suits_patches<T>(shape, algorithm, Pass::forward)) {
        conv2d_forward_by_patches(shape, x, weight, bias, relu, y);
        return;
    }
    const ConvShape s = in_one_row(shape);
    if (const WinogradForm* const of_phases = phases_form<T>(s, algorithm)) {
        conv2d_forward_by_phases(s, *of_phases, x, weight, bias, relu, y);
        return;
    }
    Correlation<T> correlation = forward_correlation(s, x, weight, bias, y);
    correlation.relu = relu;
    if (suits_depthwise<T>(s, Pass::forward)) {
        correlate_depthwise(std::vector{correlation});
    } else {
        correlate(correlation, form);
    }
}

template <class T>
void conv2d_backward_data(const ConvShape& shape, const T* dy, const T* weight, T* dx, Algorithm algorithm,
                          const T* bias) {
    const bool strided = shape.stride.h > 1 || shape.stride.w > 1;  // then each phase has a form of its own
    const WinogradForm* const form = strided ? nullptr : winograd_data_form(shape, algorithm);
    if (const index_t batch = !bias && shape.cg() > 4 ? images_by_batch<T>(shape, algorithm, form) : 0) {
        conv2d_backward_data_by_batch<T>(with_images(shape, batch), dy, nullptr, nullptr, weight, dx);
        if (batch == shape.n) return;
        conv2d_backward_data(with_images(shape, shape.n - batch), dy + batch * shape.k * shape.oh * shape.ow, weight,
                             dx + batch * shape.c * shape.h * shape.w, algorithm);
        return;
    }
    if (suits_patches<T>(shape, algorithm, Pass::backward_data)) {
        conv2d_backward_data_by_patches(shape, dy, weight, bias, dx);
        return;
    }
    const ConvShape s = in_one_row(shape);
    if (const WinogradForm* const of_phases = phases_data_form(s, algorithm)) {
        conv2d_backward_data_by_phases(s, *of_phases, dy, weight, bias, dx);
        return;
    }
    const bool depthwise = suits_depthwise<T>(s, Pass::backward_data);
    if (!bias && !depthwise && suits_taps(s) && !form) {
        conv2d_backward_data_by_taps(s, dy, weight, dx);
        return;
    }
    // One phase for each of the first inputs. Some meet no tap, where the stride is larger than the kernel, and are 0.
    std::vector<Axis> v, h;
    for (index_t i = 0; i < std::min(s.stride.h, s.h); ++i) {
        v.push_back(backward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top, (i + s.pad.top) % s.stride.h));
    }
    for (index_t i = 0; i < std::min(s.stride.w, s.w); ++i) {
        h.push_back(
            backward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left, (i + s.pad.left) % s.stride.w));
    }
    const auto no_taps = [](const Axis& axis) { return axis.taps.empty(); };
    std::vector<Correlation<T>> phases;
    for (const Axis& phase_v : v) {
        for (const Axis& phase_h : h) {
            if (no_taps(phase_v) || no_taps(phase_h)) continue;
            phases.push_back(backward_correlation(s, phase_v, phase_h, dy, weight, bias, dx));
        }
    }
    if (depthwise && !phases.empty()) {
        correlate_depthwise(phases);
        return;
    }
    if (std::any_of(v.begin(), v.end(), no_taps) || std::any_of(h.begin(), h.end(), no_taps)) {
        fill_planes(s.n, s.c, s.h * s.w, bias, dx);
    }
    if (!form && !phases.empty() && suits_planes(phases[0])) {
        correlate_planes(phases);
        return;
    }
    for (const Correlation<T>& phase : phases) {
        correlate(phase, strided ? winograd_form(s, phase.v, phase.h, algorithm) : form);
    }
}

template Way way_of(const Correlation<float>&, const WinogradForm*);
template Way way_of(const Correlation<double>&, const WinogradForm*);
template void correlate(const Correlation<float>&, const WinogradForm*);
template void correlate(const Correlation<double>&, const WinogradForm*);
template void fill_planes(index_t, index_t, index_t, const float*, float*);
template void fill_planes(index_t, index_t, index_t, const double*, double*);
template void conv2d_forward(const ConvShape&, const float*, const float*, const float*, float*, Algorithm, bool);
template void conv2d_forward(const ConvShape&, const double*, const double*, const double*, double*, Algorithm, bool);
template void conv2d_backward_data(const ConvShape&, const float*, const float*, float*, Algorithm, const float*);
template void conv2d_backward_data(const ConvShape&, const double*, const double*, double*, Algorithm, const double*);

}  // namespace npconv
