#include "conv_1x1.hpp"

#include <algorithm>
#include <vector>

#include "bfloat16x3.hpp"
#include "conv_weight.hpp"
#include "panels.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// The product of the weights (out channels x in channels) and the pixels (in channels x pixels) in tiles of 32 x 32,
// the pixels of each channel as they lie. What a block of them is split into stays in the L2 cache while all output
// channels meet it.
constexpr index_t block_pairs = 48 << 10;  // of channels, times pixels
constexpr index_t most_channels = 384;     // that are summed at a time
constexpr index_t step_channels = 2 * Unit::pairs;

/// The weights of every tile of output channels as left operands, step by step: so each lies in few pages.
class SplitWeights {
   public:
    explicit SplitWeights(const Correlation<float>& c)
        : tiles(ceil_div(c.out_channels, Unit::rows)),
          steps(ceil_div(c.in_channels, step_channels)),
          all_(c.groups * tiles * steps * step_size) {
        parallel_for(c.groups * tiles, static_cast<double>(steps * step_size) * element_ns, [&](index_t task) {
            const index_t m = task % tiles * Unit::rows, count = std::min<index_t>(Unit::rows, c.out_channels - m);
            Scratch<float> columns(c.in_channels * Unit::rows), rows(count * c.in_channels);
            pack_weights(c, task / tiles, m, count, Unit::rows, columns.data());
            largest.add_rows(columns.data(), c.in_channels);
            kernels_of<float>().pack_transposed(columns.data(), Unit::rows, c.in_channels, count, rows.data(),
                                                c.in_channels, c.in_channels);
            Bfloat16Pair* to = all_.data() + task * steps * step_size;
            std::fill(to, to + steps * step_size, 0);  // behind the last output channel, too
            for (index_t k = 0; k < c.in_channels; k += step_channels, to += step_size) {
                bfloat16x3_kernels()->split_rows(count, std::min(step_channels, c.in_channels - k), rows.data() + k,
                                                 c.in_channels, to, Unit::pairs, part);
            }
        });
        for (index_t step = 0; step < steps; ++step) at_.push_back(step * step_size);
    }
    Unit::Operand operand(index_t group, index_t tile, index_t first_step) {
        return {all_.data() + ((group * tiles + tile) * steps + first_step) * step_size, at_.data(), Unit::pairs, part};
    }
    const index_t tiles, steps;
    Largest largest;  ///< of the weights

   private:
    static constexpr index_t part = Unit::rows * Unit::pairs, step_size = Unit::parts * part;
    Scratch<Bfloat16Pair> all_;
    std::vector<index_t> at_;
};

/// Adds the largest sum of each of n pixels of the slab, from `source` on, to that of the pixel's image.
void add_to_images(const std::vector<Strip>& strips, index_t source, index_t n, const std::uint32_t* bits,
                   std::vector<Largest>& largest) {
    for (std::size_t i = 0; i < strips.size(); ++i) {
        const index_t begin = i == 0 ? 0 : std::max<index_t>(strips[i].source - source, 0);
        const index_t end = i + 1 == strips.size() ? n : std::min(strips[i + 1].source - source, n);
        if (begin < end) largest[static_cast<std::size_t>(strips[i].image)].add(bits + begin, end - begin);
    }
}

}  // namespace

std::vector<index_t> correlate_1x1(const Correlation<float>& c) {
    const Bfloat16x3Kernels& unit = *bfloat16x3_kernels();
    if (c.images == 0 || c.v.out == 0 || c.h.out == 0) return {};
    const index_t in_plane = c.v.in * c.h.in, image_stride = c.groups * c.in_channels * in_plane;
    const index_t out_plane = c.out_h * c.out_w, threads = get_num_threads();
    SplitWeights weights(c);
    const index_t chunks = ceil_div(c.in_channels, most_channels), most_steps = ceil_div(weights.steps, chunks);
    const index_t most = std::max<index_t>(block_pairs / (most_steps * Unit::pairs), 2 * Unit::columns);
    const BlockGrid grid = balanced_grid(c.images, c.v.out, c.h.out, most, threads);
    const index_t tile_groups = std::clamp<index_t>(threads / (grid.blocks() * c.groups), 1, weights.tiles);
    const SlabLayout layout(c.v, c.h, grid.block_rows, grid.block_cols);
    const ResultLayout results{c.groups * c.out_channels * out_plane, c.v.first * c.out_w + c.h.first,
                               c.v.step * c.out_w, c.h.step, c.loose};
    // Images of one row are split where they lie, any others by way of a slab.
    const bool from_images = c.v.in == 1 && c.h.in == c.h.out && c.v.taps[0].offset == 0 && c.h.taps[0].offset == 0;
    const index_t ld = layout.channel_stride(), part = most_steps * Unit::pairs * ld + 2 * Unit::columns;
    std::vector<index_t> at;
    for (index_t step = 0; step < most_steps; ++step) at.push_back(step * Unit::pairs * ld);

    std::vector<Largest> largest(static_cast<std::size_t>(c.images));  // of the sums of each image
    const double task_ns = static_cast<double>(grid.block_rows * grid.block_cols * c.out_channels / tile_groups) *
                           static_cast<double>(c.in_channels) * fma_ns / 2;
    parallel_for(grid.blocks() * c.groups * tile_groups, task_ns, [&](index_t task) {
        const index_t tile_group = task % tile_groups, group = task / tile_groups % c.groups;
        const Block block = grid.block(task / tile_groups / c.groups);
        std::vector<Strip> strips;
        cut_into_strips(block, c.v.out, strips);
        layout.place(strips);
        Panels panels;
        panels.cut(block, strips, layout.width(), results, Unit::columns, true);
        Scratch<float> slab(from_images ? 0 : layout.size(step_channels) + 2 * Unit::columns);
        Scratch<Bfloat16Pair> pixels(Unit::parts * part);
        float sums[Unit::rows * Unit::columns];
        const UnitInUse in_use;

        for (index_t chunk = 0; chunk < chunks; ++chunk) {
            const index_t first_step = chunk * most_steps, steps = std::min(most_steps, weights.steps - first_step);
            const index_t first = first_step * step_channels;
            const index_t channels = std::min(steps * step_channels, c.in_channels - first);
            const float* const in = c.in + (group * c.in_channels + first) * in_plane;
            for (std::size_t i = 0; from_images && i < strips.size(); ++i) {
                unit.split_columns(channels, block.width(), in + strips[i].image * image_stride + block.col_begin,
                                   in_plane, pixels.data() + strips[i].source, ld, part);
            }
            for (index_t channel = 0; !from_images && channel < channels; channel += step_channels) {
                const index_t some = std::min(step_channels, channels - channel);
                layout.fill(block, strips, in + channel * in_plane, image_stride, some, 0.0f, slab.data());
                unit.split_columns(some, ld, slab.data(), ld, pixels.data() + channel / 2 * ld, ld, part);
            }
            const index_t last_tile = share_begin(tile_group + 1, tile_groups, weights.tiles);
            for (index_t tile = share_begin(tile_group, tile_groups, weights.tiles); tile < last_tile; ++tile) {
                const index_t m = tile * Unit::rows, rows = std::min<index_t>(Unit::rows, c.out_channels - m);
                const index_t channel = group * c.out_channels + m;
                const Unit::Operand a = weights.operand(group, tile, first_step);
                for (const Panel& panel : panels.list) {
                    const Unit::Operand b{pixels.data() + panel.source, at.data(), ld, part};
                    unit.tile(static_cast<int>(rows), panel.columns, steps, a, b, sums, false);
                    std::uint32_t bits[Unit::columns];
                    unit.largest(rows, sums, bits);
                    add_to_images(strips, panel.source, panel.columns, bits, largest);
                    kernels_of<float>().store_columns(sums, Unit::columns, rows, panels.results(panel), panel.results,
                                                      c.h.step, c.bias ? c.bias + channel : nullptr, chunk > 0,
                                                      c.relu && chunk + 1 == chunks, c.out + channel * out_plane,
                                                      out_plane);
                }
            }
        }
    });
    return images_to_make_anew(largest, weights.largest);
}

// The product of the pixels of x (in channels x pixels) and those of dy (pixels x out channels), block by block of
// pixels.
bool backward_weight_1x1(const ConvShape& s, const PackPixels<float>& dy, const float* x, float* dweight,
                         float* dbias) {
    const Bfloat16x3Kernels& unit = *bfloat16x3_kernels();
    constexpr index_t tile_size = Unit::rows * Unit::columns, most_pixels = 256;
    const index_t plane = s.h * s.w, cols = ceil_div(plane, most_pixels), blocks = s.n * cols;
    const index_t tiles = ceil_div(s.cg(), Unit::rows), panels = ceil_div(s.kg(), Unit::columns);
    const index_t size = tiles * panels * tile_size, all_size = s.groups * size;
    const index_t splits = partial_sums(s, all_size, s.groups * tiles, blocks);
    const index_t chunks = std::clamp<index_t>(ceil_div(2 * get_num_threads(), splits * s.groups), 1, tiles);
    constexpr index_t pairs = most_pixels / 2, a_part = Unit::rows * pairs, b_part = pairs * Unit::columns;
    index_t at_a[pairs / Unit::pairs], at_b[pairs / Unit::pairs];
    for (index_t step = 0; step < pairs / Unit::pairs; ++step) {
        at_a[step] = step * Unit::pairs;
        at_b[step] = step * Unit::pairs * Unit::columns;
    }

    Scratch<float> partials(splits * all_size), bias_sums(splits * s.groups * panels * Unit::columns);
    bias_sums.clear();
    Largest largest_dy, largest_sum;
    const double task_ns = static_cast<double>(s.n * plane * s.k) * static_cast<double>(s.cg()) * fma_ns /
                           static_cast<double>(2 * splits * chunks);
    parallel_for(splits * s.groups * chunks, task_ns, [&](index_t task) {
        const index_t chunk = task % chunks, group = task / chunks % s.groups, split = task / chunks / s.groups;
        const index_t first_tile = share_begin(chunk, chunks, tiles), last_tile = share_begin(chunk + 1, chunks, tiles);
        float* const sums = partials.data() + (split * s.groups + group) * size;
        Scratch<Bfloat16Pair> pixels(Unit::parts * a_part), gradients(panels * Unit::parts * b_part);
        Scratch<float> packed((most_pixels + 1) * Unit::columns);  // one pixel behind may be written, too
        const UnitInUse in_use;
        const index_t first = share_begin(split, splits, blocks);
        for (index_t block = first; block < share_begin(split + 1, splits, blocks); ++block) {
            const index_t image = block / cols, col = share_begin(block % cols, cols, plane);
            const index_t width = share_begin(block % cols + 1, cols, plane) - col;
            const index_t steps = ceil_div(width, 2 * Unit::pairs);
            for (index_t panel = 0; panel < panels; ++panel) {
                const index_t k = panel * Unit::columns, count = std::min<index_t>(Unit::columns, s.kg() - k);
                dy({image, 0, 1, 0}, col, width, group * s.kg() + k, count, packed.data());
                if (chunk == 0) largest_dy.add_rows(packed.data(), width, count);
                unit.split_columns(width, count, packed.data(), Unit::columns,
                                   gradients.data() + panel * Unit::parts * b_part, Unit::columns, b_part);
                if (dbias && chunk == 0) {
                    add_pixels(packed.data(), width, count,
                               bias_sums.data() + ((split * s.groups + group) * panels + panel) * Unit::columns);
                }
            }
            for (index_t tile = first_tile; tile < last_tile; ++tile) {
                const index_t c = tile * Unit::rows, rows = std::min<index_t>(Unit::rows, s.cg() - c);
                unit.split_rows(rows, width, x + (image * s.c + group * s.cg() + c) * plane + col, plane, pixels.data(),
                                pairs, a_part);
                const Unit::Operand a{pixels.data(), at_a, pairs, a_part};
                for (index_t panel = 0; panel < panels; ++panel) {
                    const index_t count = std::min<index_t>(Unit::columns, s.kg() - panel * Unit::columns);
                    const Unit::Operand b{gradients.data() + panel * Unit::parts * b_part, at_b, Unit::columns, b_part};
                    float* const to = sums + (tile * panels + panel) * tile_size;
                    unit.tile(static_cast<int>(rows), static_cast<int>(count), steps, a, b, to, block > first);
                }
            }
        }
    });
    parallel_for(s.groups * tiles * panels, static_cast<double>(splits * tile_size) * element_ns, [&](index_t task) {
        const index_t group = task / panels / tiles, c = task / panels % tiles * Unit::rows;
        const index_t k = task % panels * Unit::columns;
        float* const total = partials.data() + task * tile_size;
        for (index_t split = 1; split < splits; ++split) {
            for (index_t i = 0; i < tile_size; ++i) total[i] += total[split * all_size + i];
        }
        const index_t rows = std::min<index_t>(Unit::rows, s.cg() - c);
        largest_sum.add_rows(total, rows, std::min<index_t>(Unit::columns, s.kg() - k));
        kernels_of<float>().pack_transposed(total, Unit::columns, rows, std::min<index_t>(Unit::columns, s.kg() - k),
                                            dweight + (group * s.kg() + k) * s.cg() + c, s.cg(), rows);
    });
    for (index_t k = 0; dbias && k < s.k; ++k) {
        const index_t group = k / s.kg();
        dbias[k] = 0;
        for (index_t split = 0; split < splits; ++split) {
            dbias[k] += bias_sums[(split * s.groups + group) * panels * Unit::columns + k % s.kg()];
        }
    }
    return are_of_float32(largest_sum.value(), largest_dy.value());
}

}  // namespace npconv
