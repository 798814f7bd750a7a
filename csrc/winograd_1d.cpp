#include "winograd_1d.hpp"

#include <algorithm>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "slab.hpp"
#include "stream.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t tile = winograd_1d.tile, size = winograd_1d.size();
constexpr index_t block_elements = 1 << 15;  // of a slab, which stays in the L2 cache
constexpr index_t panel_bytes = 1 << 15;  // of the transformed pixels that all output channels meet before any others

/// The taps in the order of the pixels that they meet.
std::vector<Tap> sorted(std::vector<Tap> taps) {
    std::sort(taps.begin(), taps.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
    return taps;
}

/// Transformed weights, the same `size` of them for each vector of output channels.
template <class T>
struct Weights {
    index_t terms, size;
    Scratch<T> data;

    Weights(const Correlation<T>& c, index_t terms_, const std::vector<Tap>& column)
        : terms(terms_),
          size(terms * winograd_1d.size() * kernels_of<T>().lanes),
          data(c.groups * ceil_div(c.out_channels, kernels_of<T>().lanes) * size) {
        const index_t lanes = kernels_of<T>().lanes, panels = ceil_div(c.out_channels, lanes);
        std::vector<index_t> places;  // of the taps of a term, in the weights of a panel
        for (index_t channel = 0; channel < c.in_channels; ++channel) {
            for (const Tap& h : c.h.taps) {
                for (const Tap& v : column) places.push_back((channel * c.taps() + c.tap_place(v, h)) * lanes);
            }
        }
        parallel_for(c.groups * panels, static_cast<double>(size) * element_ns, [&](index_t task) {
            const index_t group = task / panels, m = task % panels * lanes;
            Scratch<T> packed(c.reduction() * lanes);
            pack_weights(c, group, m, std::min(lanes, c.out_channels - m), lanes, packed.data());
            kernels_of<T>().winograd_1d_filter(terms, packed.data(), places.data(), data.data() + task * size);
        });
    }
    /// Those of a tile whose first output channel is m.
    const T* of(index_t group, index_t m, index_t out_channels) const {
        const index_t lanes = kernels_of<T>().lanes, panels = ceil_div(out_channels, lanes);
        return data.data() + (group * panels * lanes + m) * (size / lanes);
    }
};

/// The vectors of a block: where their pixels are in its slab, and where their results go.
struct Vectors {
    std::vector<index_t> sources;
    std::vector<TileResult> results;

    template <class T>
    Vectors(const Correlation<T>& c, const Block& block, const std::vector<Strip>& strips, const SlabLayout& layout) {
        const index_t width = block.width(), lanes = kernels_of<T>().lanes, together = kernels_of<T>().nr / lanes;
        for (const Strip& strip : strips) {
            const index_t image = strip.image * c.groups * c.out_channels * c.out_h * c.out_w;
            for (index_t y = 0; y < strip.rows; y += tile) {
                const index_t row = strip.row + y;
                for (index_t left = 0; left < width; left += lanes) {
                    // The last vector of a row reaches back, so that it is whole: what two make is the same.
                    const index_t x = std::max<index_t>(std::min(left, width - lanes), 0);
                    sources.push_back(strip.source + y * layout.width() + x);
                    results.push_back({image + (c.v.first + row) * c.out_w + c.h.first + block.col_begin + x,
                                       static_cast<int>(std::min(tile, c.v.out - row)),
                                       static_cast<int>(std::min(lanes, width))});
                }
            }
        }
        // What is missing to whole panels has no rows of results.
        const index_t count = ceil_div(static_cast<index_t>(results.size()), together) * together;
        sources.resize(static_cast<std::size_t>(count), sources.back());
        results.resize(static_cast<std::size_t>(count), {results.back().at, 0, 0});
    }
};

}  // namespace

template <class T>
void winograd_1d_correlate(const Correlation<T>& c) {
    if (c.images == 0 || c.v.out == 0 || c.h.out == 0) return;
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t lanes = kernel.lanes, together = kernel.nr / lanes, channels = kernel.winograd_1d_channels;
    const index_t in_plane = c.v.in * c.h.in, out_plane = c.out_h * c.out_w, threads = get_num_threads();

    // A block is some rows of tiles, cut into vectors.
    const index_t tiles_v = ceil_div(c.v.out, tile), tiles_h = ceil_div(c.h.out, lanes);
    const index_t most = std::max<index_t>(block_elements / (c.in_channels * tile * lanes), 1);
    const BlockGrid grid = balanced_grid(c.images, tiles_v, tiles_h, most, threads);
    const index_t blocks = grid.blocks() * c.groups, tiles = ceil_div(c.out_channels, channels);
    const index_t parts = std::clamp<index_t>(threads / blocks, 1, tiles);  // that share a block's output channels
    const SlabLayout layout(c.v, c.h, grid.block_rows * tile, std::min(grid.block_cols * lanes, c.h.out));

    // A term is an input channel and a column of taps.
    const std::vector<Tap> column = sorted(c.v.taps);
    std::vector<index_t> offsets;  // in a slab
    for (index_t channel = 0; channel < c.in_channels; ++channel) {
        for (const Tap& h : c.h.taps) {
            offsets.push_back(channel * layout.channel_stride() + layout.tap_offset(column[0], h));
        }
    }
    const auto terms = static_cast<index_t>(offsets.size());
    const index_t panel_size = terms * size * kernel.nr;
    const index_t at_once = std::max<index_t>(panel_bytes / (panel_size * static_cast<index_t>(sizeof(T))), 1);
    const Weights<T> weights(c, terms, column);
    const bool stream = c.out_w % lanes == 0 && streams(c.out, c.images * c.groups * c.out_channels * out_plane);

    const double task_ns = static_cast<double>(grid.block_rows * grid.block_cols * lanes * size * terms) *
                           static_cast<double>(c.out_channels) * fma_ns / static_cast<double>(parts);
    parallel_for(blocks * parts, task_ns, [&](index_t task) {
        const index_t part = task % parts, group = task / parts % c.groups;
        Block block = grid.block(task / parts / c.groups);
        std::vector<Strip> strips;
        cut_into_strips(block, tiles_v, strips);
        for (Strip& strip : strips) {
            strip.row *= tile;
            strip.rows *= tile;
        }
        block.col_begin *= lanes;
        block.col_end = std::min(block.col_end * lanes, c.h.out);
        layout.place(strips);
        Scratch<T> slab(layout.size(c.in_channels) + kernel.nr);
        layout.clear_behind(strips, c.in_channels, kernel.nr, slab.data());
        layout.fill(block, strips, c.in + group * c.in_channels * in_plane, c.groups * c.in_channels * in_plane,
                    c.in_channels, T(0), slab.data());

        const Vectors vectors(c, block, strips, layout);
        const auto panels = static_cast<index_t>(vectors.sources.size()) / together;
        Scratch<T> pixels(at_once * panel_size);
        for (index_t first = 0; first < panels; first += at_once) {
            const index_t last = std::min(first + at_once, panels);
            for (index_t p = first; p < last; ++p) {
                kernel.winograd_1d_input(terms, slab.data(), vectors.sources.data() + p * together, offsets.data(),
                                         layout.width(), pixels.data() + (p - first) * panel_size);
            }
            for (index_t t = share_begin(part, parts, tiles); t < share_begin(part + 1, parts, tiles); ++t) {
                const index_t m = t * channels, channel = group * c.out_channels + m;
                const T* const weights_of_tile = weights.of(group, m, c.out_channels);
                for (index_t p = first; p < last; ++p) {
                    kernel.winograd_1d_tile(terms, weights_of_tile, pixels.data() + (p - first) * panel_size,
                                            vectors.results.data() + p * together, c.out + channel * out_plane,
                                            out_plane, c.out_w, std::min(channels, c.out_channels - m),
                                            c.bias ? c.bias + channel : nullptr, c.relu, stream);
                }
            }
        }
        if (stream) finish_streams();
    });
}

template void winograd_1d_correlate(const Correlation<float>&);
template void winograd_1d_correlate(const Correlation<double>&);

}  // namespace npconv
