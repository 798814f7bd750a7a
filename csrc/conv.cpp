#include "conv.hpp"

#include <algorithm>
#include <vector>

#include "dispatch.hpp"
#include "panels.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "slab.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// Sizes of the pieces that are worked on at a time. A packed panel of reduction_block x nr stays in the L1 cache while
// tile after tile of weights passes by; block_panels panels of output pixels share one slab, which stays in L2.
constexpr index_t reduction_block = 384;
constexpr index_t block_panels = 16;
constexpr index_t slab_elements = 1 << 16;   // at most, of one channel, unless one output row reads more
constexpr index_t weight_grad_pixels = 256;  // output pixels that the weight gradient sums at a time
constexpr index_t cache_elements = 1 << 17;  // what stays in the L2 cache between convolution and pooling

/// A grouped correlation with separable geometry: forward and data gradient are both one of these.
///   out[n, m, v.first + i*v.step, h.first + j*h.step] = bias[m] +
///       sum over channel c, taps s of v, t of h:  in[n, c, i*v.stride + s.offset, j*h.stride + t.offset]
///                                                 * weight[m*weight_m + c*weight_c + s.index*kw + t.index]
template <class T>
struct Correlation {
    Axis v, h;
    index_t images, groups;
    index_t in_channels, out_channels;  // of one group
    const T* in;
    const T* weight;
    index_t weight_m, weight_c, weight_group, kw, kernel_taps;
    const T* bias;
    T* out;
    index_t out_h, out_w;  // the size of an output plane; v.out x h.out of its pixels are written

    index_t taps() const { return static_cast<index_t>(v.taps.size() * h.taps.size()); }
    index_t reduction() const { return in_channels * taps(); }
};

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
    const double tile = std::max(tile_rows, 4.0);              // below 4 rows the latency of the multiply-adds shows
    const double pack = 4 + 2 * runs;                          // copying one row of a panel
    const double scatter = 25 * runs * tile_rows / reduction;  // storing a tile run by run instead of whole
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

/// The elements of a slab of several channels.
index_t slab_size(const SlabLayout& layout, index_t channels) {
    if (channels > (index_t(1) << 58) / std::max<index_t>(layout.channel_stride(), 1)) throw std::bad_alloc();
    return channels * layout.channel_stride();
}

/// Weights in the micro-kernel's order, tile by tile: [reduction][rows of the tile]. Tiles share the output channels
/// evenly (64 in tiles of at most 14 rows: 12, 13, 13, 13, 13), so none is padded.
template <class T>
void pack_weights(const Correlation<T>& c, index_t tiles, T* packed) {
    const index_t reduction = c.reduction();
    const double tile_ns =
        static_cast<double>(c.out_channels * c.reduction()) * element_ns / static_cast<double>(tiles);
    parallel_for(c.groups * tiles, tile_ns, [&](index_t task) {
        const index_t group = task / tiles, tile = task % tiles;
        const index_t begin = share_begin(tile, tiles, c.out_channels);
        const index_t rows = share_begin(tile + 1, tiles, c.out_channels) - begin;
        const T* from = c.weight + group * c.weight_group + begin * c.weight_m;
        T* to = packed + (group * c.out_channels + begin) * reduction;
        const index_t taps = c.taps();
        if (c.weight_c == taps) {  // forward: the whole reduction lies in its order
            kernels_of<T>().pack_transposed(from, c.weight_m, rows, reduction, to, rows);
            return;
        }
        for (index_t channel = 0; channel < c.in_channels; ++channel, from += c.weight_c, to += taps * rows) {
            if (taps == c.kernel_taps) {  // all of them, in their order
                kernels_of<T>().pack_transposed(from, c.weight_m, rows, taps, to, rows);
                continue;
            }
            index_t tap = 0;
            for (const Tap& v : c.v.taps) {
                for (const Tap& h : c.h.taps) {
                    const T* w = from + v.index * c.kw + h.index;
                    for (index_t i = 0; i < rows; ++i) to[tap * rows + i] = w[i * c.weight_m];
                    ++tap;
                }
            }
        }
    });
}

/// Stores a tile whose columns are scattered over the output: several rows, several images, or every step-th pixel.
template <class T>
void store_scattered(const Segment* segments, int count, const T* tile, index_t nr, index_t rows, index_t step,
                     const T* bias, bool accumulate, T* out, index_t out_plane) {
    for (index_t i = 0; i < rows; ++i, tile += nr, out += out_plane) {
        for (int s = 0; s < count; ++s) {
            const T* from = tile + segments[s].column;
            T* to = out + segments[s].at;
            const int n = segments[s].length;
            if (step == 1) {
                if (accumulate) {
                    for (int j = 0; j < n; ++j) to[j] += from[j];
                } else if (bias) {
                    for (int j = 0; j < n; ++j) to[j] = from[j] + bias[i];
                } else {
                    std::copy(from, from + n, to);
                }
            } else {
                for (int j = 0; j < n; ++j) {
                    to[j * step] = accumulate ? to[j * step] + from[j] : bias ? from[j] + bias[i] : from[j];
                }
            }
        }
    }
}

template <class T>
void correlate(const Correlation<T>& c) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    const index_t rows = c.images * c.v.out;
    if (rows == 0 || c.h.out == 0) return;
    const index_t taps = c.taps(), reduction = c.reduction(), tiles = ceil_div(c.out_channels, kernel.mr);
    const index_t in_plane = c.v.in * c.h.in, out_plane = c.out_h * c.out_w;
    const Cut cut = choose_cut(c, rows, tiles, nr, get_num_threads());
    const ResultLayout results{c.groups * c.out_channels * out_plane, c.v.first * c.out_w + c.h.first,
                               c.v.step * c.out_w, c.h.step};

    Scratch<T> weights(c.groups * c.out_channels * reduction);
    pack_weights(c, tiles, weights.data());

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

        Scratch<T> slab(slab_size(layout, slab_channels) + nr);
        Scratch<T> packed(depth * nr + nr);
        slab.clear();  // columns behind the end of a block are computed, too
        packed.clear();
        Scratch<index_t> offsets(2 * depth);
        index_t* const slab_row = offsets.data();
        index_t* const packed_row = slab_row + depth;
        for (index_t i = 0; i < depth; ++i) packed_row[i] = i * nr;
        T tile_buffer[max_tile_rows * max_tile_columns];

        std::vector<Strip> strips;
        cut_into_strips(block, c.v.out, strips);
        layout.place(strips);
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
            for (const Panel& panel : panels.list) {
                // A panel whose pixels lie side by side is read where it is, any other one is packed.
                const T* columns = slab.data() + panel.source;
                const index_t* column_row = slab_row;
                if (!cut.in_place && panel.sources > 1) {
                    kernel.pack_columns(kc, slab.data(), slab_row, panels.sources(panel), panel.sources, packed.data());
                    columns = packed.data();
                    column_row = packed_row;
                }
                const Segment* const to = panels.results(panel);
                const index_t last_tile = share_begin(tile_group + 1, cut.tile_groups, tiles);
                for (index_t tile = share_begin(tile_group, cut.tile_groups, tiles); tile < last_tile; ++tile) {
                    const index_t m = share_begin(tile, tiles, c.out_channels);
                    const index_t tile_rows = share_begin(tile + 1, tiles, c.out_channels) - m;
                    const index_t channel = group * c.out_channels + m;
                    const T* a = weights.data() + channel * reduction + k * tile_rows;
                    const T* bias = c.bias ? c.bias + channel : nullptr;
                    T* out = c.out + channel * out_plane;
                    const bool narrow = panel.columns <= kernel.lanes;
                    const auto gemm_tile = narrow ? kernel.narrow_gemm_tile[tile_rows] : kernel.gemm_tile[tile_rows];
                    if (panel.results == 1 && c.h.step == 1) {
                        gemm_tile(kc, a, columns, column_row, out + to->at, out_plane, panel.columns, bias, k > 0);
                    } else {
                        gemm_tile(kc, a, columns, column_row, tile_buffer, nr, narrow ? kernel.lanes : nr, nullptr,
                                  false);
                        store_scattered(to, panel.results, tile_buffer, nr, tile_rows, c.h.step, bias, k > 0, out,
                                        out_plane);
                    }
                }
            }
            k += kc;
        } while (k < reduction);
    });
}

/// Forward: output o meets kernel element r at input o*stride + r*dilation - pad.
Axis forward_axis(index_t in, index_t out, index_t kernel, index_t stride, index_t dilation, index_t pad) {
    std::vector<Tap> taps;
    for (index_t r = 0; r < kernel; ++r) taps.push_back({r * dilation - pad, r});
    return Axis(in, out, stride, std::move(taps));
}

/// Backward: the inputs i with (i + pad) mod stride == phase. They are met by the kernel elements r with
/// r*dilation mod stride == phase, at output (i + pad - r*dilation) / stride, which grows by one from each such
/// input to the next: a correlation of stride 1 whose results are stride apart.
Axis backward_axis(index_t in, index_t out, index_t kernel, index_t stride, index_t dilation, index_t pad,
                   index_t phase) {
    const index_t first = ((phase - pad) % stride + stride) % stride;
    const index_t count = first < in ? (in - 1 - first) / stride + 1 : 0;
    std::vector<Tap> taps;
    for (index_t r = 0; r < kernel; ++r) {
        if (r * dilation % stride == phase) taps.push_back({(first + pad - r * dilation) / stride, r});
    }
    return Axis(out, count, 1, std::move(taps), first, stride);
}

// dweight^T is a GEMM too: its rows are the (channel, tap) pairs, its columns the output channels, and the reduction
// runs over all output pixels. The left operand is read from the slab, the right one is dy, transposed block by block
// into [pixel][nr]. The bias gradient is one more row, whose "input" is 1 everywhere.
// `pack_dy(strip, col, width, channel, count, packed)` packs what a strip covers of `count` channels of dy.
template <class T, class PackDy>
void backward_weight(const ConvShape& s, const PackDy& pack_dy, const T* x, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int nr = kernel.nr;
    const Axis v = forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top);
    const Axis h = forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left);
    const index_t taps = s.kh * s.kw, in_plane = s.h * s.w;
    const index_t bias_rows = dbias ? 1 : 0, tap_rows = dweight ? s.cg() * taps : 0;
    const index_t panels = ceil_div(s.kg(), nr), ld = panels * nr;
    const index_t partial_size = (bias_rows + tap_rows) * ld;
    if (partial_size == 0) return;

    // The pixels are cut into blocks, and the blocks into `splits` runs that are summed apart and then added in
    // order. All this depends on the shape alone, or the sums would depend on the number of threads.
    const index_t width = std::min(s.ow, weight_grad_pixels), col_blocks = ceil_div(s.ow, width);
    const index_t rows = s.n * s.oh;
    const index_t block_rows = std::clamp<index_t>(
        std::min(weight_grad_pixels / width, rows_within(v, h, width, slab_elements)), 1, std::max<index_t>(rows, 1));
    const index_t blocks = ceil_div(rows, block_rows) * col_blocks;
    const index_t most_partials = std::max<index_t>(1 << 20, 3 * s.k * s.cg() * taps) / (s.groups * partial_size);
    const index_t splits = std::clamp<index_t>(std::min(most_partials, blocks), 1, 64);

    // The channels are dealt to tasks in chunks; each sum is the same however they are.
    const SlabLayout layout(v, h, block_rows, width);
    const index_t most_channels = std::clamp<index_t>((64 << 10) / layout.channel_stride(), 1, s.cg());
    const index_t wanted_chunks = ceil_div(4 * get_num_threads(), splits * s.groups);
    const index_t chunks =
        dweight ? std::max(ceil_div(s.cg(), most_channels), std::min(wanted_chunks, ceil_div(s.cg(), 16))) : 1;

    Scratch<T> partials(splits * s.groups * partial_size);
    const double task_ns = static_cast<double>(rows * s.ow * s.kg()) * static_cast<double>(bias_rows + tap_rows) *
                           fma_ns / static_cast<double>(splits * chunks);
    parallel_for(splits * s.groups * chunks, task_ns, [&](index_t task) {
        const index_t chunk = task % chunks, group = task / chunks % s.groups, split = task / chunks / s.groups;
        const index_t channel = share_begin(chunk, chunks, s.cg());
        const index_t channels = dweight ? share_begin(chunk + 1, chunks, s.cg()) - channel : 0;
        const bool with_bias = dbias && chunk == 0;
        const index_t chunk_rows = channels * taps + (with_bias ? 1 : 0);
        T* const sums = partials.data() + (split * s.groups + group) * partial_size +
                        (with_bias ? 0 : bias_rows + channel * taps) * ld;
        std::fill(sums, sums + chunk_rows * ld, T(0));

        // Where the bias' row of ones lies: behind the slab and what fill() may write behind it.
        const index_t ones = slab_size(layout, channels) + max_tile_columns;
        Scratch<T> slab(ones + layout.channel_stride());
        if (with_bias) std::fill(slab.data() + ones, slab.data() + ones + layout.channel_stride(), T(1));
        std::vector<index_t> in_row;
        if (with_bias) in_row.push_back(ones);
        for (index_t c = 0; c < channels; ++c) {
            for (const Tap& tv : v.taps) {
                for (const Tap& th : h.taps) in_row.push_back(c * layout.channel_stride() + layout.tap_offset(tv, th));
            }
        }
        Scratch<T> dy_panel((block_rows * width + 1) * nr);  // pack_dy may write one pixel behind
        std::vector<Strip> strips;

        const index_t last_block = share_begin(split + 1, splits, blocks);
        for (index_t index = share_begin(split, splits, blocks); index < last_block; ++index) {
            const index_t row = index / col_blocks * block_rows, col = index % col_blocks * width;
            const Block block{row, std::min(row + block_rows, rows), col, std::min(col + width, s.ow)};
            cut_into_strips(block, s.oh, strips);
            layout.place(strips);
            layout.fill(block, strips, x + (group * s.cg() + channel) * in_plane, s.c * in_plane, channels, T(0),
                        slab.data());
            for (index_t panel = 0; panel < panels; ++panel) {
                const index_t k = panel * nr, k_count = std::min<index_t>(nr, s.kg() - k);
                T* packed = dy_panel.data();
                for (const Strip& strip : strips) {
                    pack_dy(strip, col, block.width(), group * s.kg() + k, k_count, packed);
                    packed += strip.rows * block.width() * nr;
                }
                const index_t tiles = ceil_div(chunk_rows, kernel.mr);
                for (index_t tile = 0; tile < tiles; ++tile) {
                    const index_t r = share_begin(tile, tiles, chunk_rows);
                    const auto grad_tile = kernel.weight_grad_tile[share_begin(tile + 1, tiles, chunk_rows) - r];
                    packed = dy_panel.data();
                    for (const Strip& strip : strips) {
                        grad_tile(strip.rows, block.width(), slab.data() + strip.source, in_row.data() + r,
                                  layout.width(), packed, sums + r * ld + k, ld);
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
                                   dweight + (group * s.kg() + k) * tap_rows, tap_rows);
        }
    });
}

}  // namespace

template <class T>
void conv2d_forward(const ConvShape& s, const T* x, const T* weight, const T* bias, T* y) {
    const index_t taps = s.kh * s.kw;
    correlate(Correlation<T>{forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top),
                             forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left), s.n, s.groups, s.cg(),
                             s.kg(), x, weight, s.cg() * taps, taps, s.kg() * s.cg() * taps, s.kw, taps, bias, y, s.oh,
                             s.ow});
}

template <class T>
void conv2d_backward_data(const ConvShape& s, const T* dy, const T* weight, T* dx) {
    const index_t taps = s.kh * s.kw;
    for (index_t v = 0; v < s.stride.h; ++v) {
        for (index_t h = 0; h < s.stride.w; ++h) {
            correlate(Correlation<T>{backward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top, v),
                                     backward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left, h), s.n,
                                     s.groups, s.kg(), s.cg(), dy, weight, taps, s.cg() * taps, s.kg() * s.cg() * taps,
                                     s.kw, taps, nullptr, dx, s.h, s.w});
        }
    }
}

template <class T>
void conv2d_backward_weight(const ConvShape& s, const T* dy, const T* x, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t plane = s.oh * s.ow;
    const auto pack_dy = [&](const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                             T* packed) {
        const T* from = dy + (strip.image * s.k + channel) * plane + strip.row * s.ow + col;
        // Rows of full width follow each other in dy as they do in the panel.
        const index_t runs = width == s.ow ? 1 : strip.rows, run = strip.rows * width / runs;
        for (index_t y = 0; y < runs; ++y) {
            kernel.pack_transposed(from + y * s.ow, plane, count, run, packed + y * run * kernel.nr, kernel.nr);
        }
    };
    backward_weight(s, pack_dy, x, dweight, dbias);
}

template <class T>
void conv2d_relu_max_pool2d_forward(const ConvShape& conv, const PoolShape& pool, const T* x, const T* weight,
                                    const T* bias, T* y, std::int32_t* indices) {
    const index_t between = conv.k * conv.oh * conv.ow, threads = get_num_threads();
    index_t images = std::clamp<index_t>(cache_elements / between, 1, std::max<index_t>(conv.n, 1));
    images = std::min(images, std::max<index_t>(conv.n / (4 * threads), 1));
    const auto some_images = [&](index_t task) {
        const index_t first = task * images, in = conv.c * conv.h * conv.w, out = pool.c * pool.oh * pool.ow;
        ConvShape part_of_conv = conv;
        PoolShape part_of_pool = pool;
        part_of_conv.n = part_of_pool.n = std::min(images, conv.n - first);
        Scratch<T> z(part_of_conv.n * between);
        conv2d_forward(part_of_conv, x + first * in, weight, bias, z.data());
        max_pool2d_forward(part_of_pool, z.data(), y + first * out, indices + first * out, true);
    };
    const index_t tasks = ceil_div(conv.n, images);
    const double task_ns =
        static_cast<double>(images * between) * (static_cast<double>(conv.cg() * conv.kh * conv.kw) * fma_ns + 1);
    if (tasks >= threads) {
        parallel_for(tasks, task_ns, some_images);
    } else {  // too few for the threads: they share each image instead
        for (index_t task = 0; task < tasks; ++task) some_images(task);
    }
}

template <class T>
void conv2d_relu_max_pool2d_backward_weight(const ConvShape& conv, const PoolShape& pool, const T* dy,
                                            const std::int32_t* indices, const T* x, T* dweight, T* dbias) {
    const index_t nr = kernels_of<T>().nr;
    const index_t reach = pool.dilation.h * (pool.kernel.h - 1);
    const bool overlap = pool.stride.h <= reach || pool.stride.w <= pool.dilation.w * (pool.kernel.w - 1);
    // dy of the convolution is never made: each gradient goes straight to its pixel's place in the panel.
    const auto pack_dy = [&](const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
                             T* packed) {
        const index_t first = strip.row * conv.ow;
        std::fill(packed, packed + strip.rows * width * nr, T(0));
        // The windows that reach into the strip: the first one ends, the last one starts there.
        const index_t begin = ceil_div(std::max<index_t>(strip.row + pool.pad.h - reach, 0), pool.stride.h);
        const index_t end = std::min((strip.row + strip.rows - 1 + pool.pad.h) / pool.stride.h + 1, pool.oh);
        const index_t end_of_strip = strip.rows * width;
        // Where in the panel a pixel goes. What lies outside goes behind the strip and is never read: a branch would be
        // a coin toss.
        const auto place = [&](index_t pixel) { return pixel >= 0 && pixel < end_of_strip ? pixel : end_of_strip; };
        const auto place_in_columns = [&](index_t pixel) {
            const index_t column = pixel % conv.ow - col;
            return pixel >= 0 && column >= 0 && column < width ? place(pixel / conv.ow * width + column) : end_of_strip;
        };
        const auto scatter = [&](const auto& where) {
            for (index_t i = 0; i < count; ++i) {
                const index_t windows = (end - begin) * pool.ow;
                const index_t plane = (strip.image * conv.k + channel + i) * pool.oh * pool.ow + begin * pool.ow;
                const T* const from = dy + plane;
                const std::int32_t* const at = indices + plane;
                for (index_t w = 0; w < windows; ++w) {
                    T& to = packed[where(at[w] - first) * nr + i];
                    to = overlap ? to + from[w] : from[w];
                }
            }
        };
        if (width == conv.ow) {
            scatter(place);
        } else {
            scatter(place_in_columns);
        }
    };
    backward_weight(conv, pack_dy, x, dweight, dbias);
}

template void conv2d_forward(const ConvShape&, const float*, const float*, const float*, float*);
template void conv2d_forward(const ConvShape&, const double*, const double*, const double*, double*);
template void conv2d_backward_data(const ConvShape&, const float*, const float*, float*);
template void conv2d_backward_data(const ConvShape&, const double*, const double*, double*);
template void conv2d_backward_weight(const ConvShape&, const float*, const float*, float*, float*);
template void conv2d_relu_max_pool2d_forward(const ConvShape&, const PoolShape&, const float*, const float*,
                                             const float*, float*, std::int32_t*);
template void conv2d_relu_max_pool2d_backward_weight(const ConvShape&, const PoolShape&, const float*,
                                                     const std::int32_t*, const float*, float*, float*);
template void conv2d_backward_weight(const ConvShape&, const double*, const double*, double*, double*);
template void conv2d_relu_max_pool2d_forward(const ConvShape&, const PoolShape&, const double*, const double*,
                                             const double*, double*, std::int32_t*);
template void conv2d_relu_max_pool2d_backward_weight(const ConvShape&, const PoolShape&, const double*,
                                                     const std::int32_t*, const double*, double*, double*);

}  // namespace npconv
