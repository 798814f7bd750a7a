#include "conv_channels.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "pool.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// A tile is a few successive pixels of a row by nr output channels: each pixel is broadcast, so it may lie anywhere,
// and nothing is packed but the weights. The sums, [pixel][nr], are turned over when they are complete.
constexpr index_t sum_elements = 1 << 16;  // of a block: pixels times output channels
constexpr index_t most_pixels = 512;       // of a block
constexpr index_t reduction_block = channels_reduction_block;

/// Whether the taps meet pixels of the image only, at every output.
bool stays_inside(const Axis& axis) {
    for (const Tap& tap : axis.taps) {
        if (tap.offset < 0 || tap.offset + axis.out - 1 >= axis.in) return false;
    }
    return axis.stride == 1;
}

}  // namespace

template <class T>
void correlate_along_channels(const Correlation<T>& c, const Pooled<T>* pooled) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    if (c.images == 0 || c.v.out == 0 || c.h.out == 0) return;
    const index_t taps = c.taps(), reduction = c.reduction(), panels = ceil_div(c.out_channels, nr);
    const index_t in_plane = c.v.in * c.h.in, image_stride = c.groups * c.in_channels * in_plane;

    Scratch<T> biases(c.groups * panels * nr);
    for (index_t group = 0; c.bias && group < c.groups; ++group) {
        T* const to = biases.data() + group * panels * nr;
        std::fill(to, to + panels * nr, T(0));
        std::copy(c.bias + group * c.out_channels, c.bias + (group + 1) * c.out_channels, to);
    }

    // A step of the reduction is a few whole channels; of a kernel larger than that, a part of one or two channels.
    const index_t most_channels = std::clamp<index_t>(reduction_block / std::max<index_t>(taps, 1), 1, c.in_channels);
    const index_t step_channels = ceil_div(c.in_channels, ceil_div(c.in_channels, most_channels));
    const bool parts_of_channels = taps > 2 * reduction_block;
    const index_t depth = parts_of_channels ? reduction_block : step_channels * taps;
    const index_t slab_channels = parts_of_channels ? 2 : step_channels;

    const index_t out_pixels = c.images * c.v.out * c.h.out;
    const index_t threads =
        useful_threads(static_cast<double>(out_pixels * c.out_channels) * static_cast<double>(reduction) * fma_ns);
    const index_t panels_at_once = std::min(panels, ceil_div(sum_elements, 64 * nr));
    const index_t slab_rows = rows_within(c.v, c.h, std::min(c.h.out, most_pixels), slab_elements);
    const index_t pixels = std::min({most_pixels, sum_elements / (panels_at_once * nr), slab_rows * c.h.out});
    const index_t unit = pooled ? pooled->shape.kernel.h : 1;  // rows that stay together; with pooling, whole ones
    const index_t share = panels > 1 ? pixels : ceil_div(out_pixels, threads);  // a panel cannot be shared
    const index_t most = std::max<index_t>(std::min(pixels, share) / unit, 1);
    const BlockGrid grid = balanced_grid(c.images, c.v.out / unit, c.h.out, most, threads, pooled != nullptr);
    const index_t blocks = grid.blocks() * c.groups;
    const index_t parts =
        std::clamp<index_t>(blocks < threads ? threads / blocks : 1, ceil_div(panels, panels_at_once), panels);

    // Where each thread has one task, it packs the weights itself: that is quicker than to fetch them from another
    // core.
    const bool at_once = blocks * parts > threads;
    const auto pack_panel = [&](index_t group, index_t panel, T* to) {
        const index_t m = panel * nr;
        pack_weights(c, group, m, std::min<index_t>(nr, c.out_channels - m), nr, to);
    };
    Scratch<T> all_weights(at_once ? c.groups * panels * reduction * nr : 0);
    parallel_for(at_once ? c.groups * panels : 0, static_cast<double>(nr * reduction) * element_ns, [&](index_t task) {
        pack_panel(task / panels, task % panels, all_weights.data() + task * reduction * nr);
    });

    // Large planes are copied even where there is no padding: their rows lie in too many pages.
    const bool in_place = stays_inside(c.v) && stays_inside(c.h) && step_channels * in_plane <= slab_elements;
    const index_t block_rows = grid.block_rows * unit;
    const SlabLayout layout(c.v, c.h, block_rows, grid.block_cols);
    const index_t row_stride = in_place ? c.h.in : layout.width();
    const index_t channel_stride = in_place ? in_plane : layout.channel_stride();
    std::vector<index_t> tap_offsets;
    for (const Tap& v : c.v.taps) {
        for (const Tap& h : c.h.taps) {
            tap_offsets.push_back(in_place ? v.offset * c.h.in + h.offset : layout.tap_offset(v, h));
        }
    }

    const index_t block_pixels = block_rows * grid.block_cols;
    const double task_ns =
        static_cast<double>(block_pixels * ceil_div(c.out_channels, parts)) * static_cast<double>(reduction) * fma_ns;
    parallel_for(blocks * parts, task_ns, [&](index_t task) {
        const index_t part = task % parts, group = task / parts % c.groups;
        Block block = grid.block(task / parts / c.groups);
        block.row_begin *= unit;
        block.row_end *= unit;
        const index_t first_panel = share_begin(part, parts, panels), last_panel = share_begin(part + 1, parts, panels);
        Scratch<T> slab(in_place ? 0 : layout.size(slab_channels) + kernel.lanes);
        Scratch<T> sums((last_panel - first_panel) * block_pixels * nr);
        Scratch<index_t> a_row(depth);
        Scratch<T> own_weights(at_once ? 0 : (last_panel - first_panel) * reduction * nr);
        for (index_t panel = first_panel; !at_once && panel < last_panel; ++panel) {
            pack_panel(group, panel, own_weights.data() + (panel - first_panel) * reduction * nr);
        }
        const T* const weights =
            at_once ? all_weights.data() + (group * panels + first_panel) * reduction * nr : own_weights.data();
        std::vector<Strip> strips;
        cut_into_strips(block, c.v.out, strips);
        if (!in_place) layout.place(strips);
        const index_t tiles = ceil_div(block.width(), kernel.mr);  // of a row

        // Even an empty reduction is run once: it writes the zeros of pixels that no tap reaches.
        index_t k = 0;
        do {
            const index_t kc = std::min(depth, reduction - k);
            const T* a = slab.data();
            if (kc > 0) {
                index_t channel = k / taps, tap = k % taps, offset = 0;
                const index_t channels = (k + kc - 1) / taps + 1 - channel;
                const T* const in = c.in + (group * c.in_channels + channel) * in_plane;
                if (in_place) {
                    a = in;
                } else {
                    layout.fill(block, strips, in, image_stride, channels, T(0), slab.data());
                }
                for (index_t i = 0; i < kc; ++i) {
                    a_row[i] = offset + tap_offsets[static_cast<std::size_t>(tap)];
                    if (++tap == taps) tap = 0, offset += channel_stride;
                }
            }
            for (index_t panel = first_panel; panel < last_panel; ++panel) {
                const bool narrow = c.out_channels - panel * nr <= kernel.lanes;
                const T* const b = weights + ((panel - first_panel) * reduction + k) * nr;
                const T* const bias = c.bias ? biases.data() + (group * panels + panel) * nr : nullptr;
                T* sum = sums.data() + (panel - first_panel) * block_pixels * nr;
                for (const Strip& strip : strips) {
                    const index_t source =
                        in_place ? strip.image * image_stride + strip.row * row_stride + block.col_begin : strip.source;
                    for (index_t y = 0; y < strip.rows; ++y) {
                        for (index_t tile = 0; tile < tiles; ++tile) {
                            const index_t x = share_begin(tile, tiles, block.width());
                            const index_t rows = share_begin(tile + 1, tiles, block.width()) - x;
                            const auto gemm_tile =
                                narrow ? kernel.narrow_pixel_gemm_tile[rows] : kernel.pixel_gemm_tile[rows];
                            gemm_tile(kc, a + source + y * row_stride + x, a_row.data(), b, sum, bias, k > 0,
                                      c.relu && k + kc == reduction);
                            sum += rows * nr;
                        }
                    }
                }
            }
            k += kc;
        } while (k < reduction);

        for (index_t panel = first_panel; panel < last_panel; ++panel) {
            const T* sum = sums.data() + (panel - first_panel) * block_pixels * nr;
            const index_t channel = group * c.out_channels + panel * nr;
            const index_t count = std::min<index_t>(nr, c.out_channels - panel * nr);
            for (const Strip& strip : strips) {
                if (pooled) {
                    store_pooled(*pooled, strip, channel, count, sum);
                } else {
                    store_pixels(c, strip, block.col_begin, block.width(), channel, count, sum);
                }
                sum += strip.rows * block.width() * nr;
            }
        }
    });
}

template void correlate_along_channels(const Correlation<float>&, const Pooled<float>*);
template void correlate_along_channels(const Correlation<double>&, const Pooled<double>*);

}  // namespace npconv
