#include "conv_depthwise.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// As many planes as a vector has lanes are turned over, so that a pixel of all of them is a vector, with zeros around
// them. A result is then a sum of vectors of weights times pixels, wherever these lie, and is turned back at the end:
//
//     for each image and vector of channels, on any thread
//         pixels[height][width][lane] <- planes
//         for each phase of the results (one, but for the data gradient of a strided layer)
//             for each block of up to 3x3 taps, whose weights stay in registers
//                 for each result of the phase:  y += sum over the block's taps of weight[tap] * pixels[its place]
//         planes <- y[height][width][lane]

/// One axis of a plane with zeros on both sides, as far as taps reach.
struct PaddedAxis {
    index_t before = 0, size;

    explicit PaddedAxis(index_t in) : size(in) {}
    void reach(const Axis& axis) {
        for (const Tap& tap : axis.taps) {
            const index_t more = std::max<index_t>(-tap.offset - before, 0);
            before += more;
            size = std::max(size + more, before + tap.offset + (axis.out - 1) * axis.stride + 1);
        }
    }
};

/// The planes of `lanes` channels, [pixel][lane].
template <class T>
struct Planes {
    index_t height, width;
    PaddedAxis v, h;

    Planes(index_t height_, index_t width_) : height(height_), width(width_), v(height), h(width) {}
    void reach(const Axis& vertical, const Axis& horizontal) {
        v.reach(vertical);
        h.reach(horizontal);
    }
    index_t pixels() const { return v.size * h.size; }
    bool padded() const { return pixels() != height * width; }
    index_t step() const { return kernels_of<T>().lanes; }  ///< from one pixel to the next ...
    index_t row() const { return h.size * step(); }         ///< ... and to the one below
    index_t place(index_t y, index_t x) const { return (v.before + y) * row() + (h.before + x) * step(); }

    /// Turns `channels` planes over to `to`, where the padding must be 0 already; `buffer` is for as many pixels.
    void read(const T* planes, index_t channels, T* buffer, T* to) const {
        const TypedKernels<T>& kernel = kernels_of<T>();
        T* const pixels = padded() ? buffer : to;
        kernel.pack_transposed(planes, height * width, channels, height * width, pixels, kernel.lanes, kernel.lanes);
        for (index_t y = 0; padded() && y < height; ++y) {
            std::copy_n(pixels + y * width * kernel.lanes, width * kernel.lanes, to + place(y, 0));
        }
    }
};

/// A few rows and columns of taps, which are met together. The columns are side by side.
struct TapBlock {
    int rows, columns;
    index_t offset[most_tap_rows];                      // of the pixels that the first result meets, by row
    index_t element[most_tap_rows * most_tap_columns];  // tap by tap: which of a filter's weights it is

    int taps() const { return rows * columns; }
};

template <class T>
std::vector<TapBlock> blocks_of_taps(const Planes<T>& planes, const Axis& v, const Axis& h, index_t kw) {
    std::vector<TapBlock> blocks;
    std::vector<Tap> across = h.taps;
    std::sort(across.begin(), across.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
    for (auto left = across.begin(), right = left; left != across.end(); left = right) {
        while (right != across.end() && right - left < most_tap_columns &&
               right->offset == left->offset + (right - left)) {
            ++right;
        }
        for (auto top = v.taps.begin(); top != v.taps.end();) {
            TapBlock block{};
            block.columns = static_cast<int>(right - left);
            for (; top != v.taps.end() && block.rows < most_tap_rows; ++top, ++block.rows) {
                block.offset[block.rows] = planes.place(top->offset, left->offset);
                for (auto tap = left; tap != right; ++tap) {
                    block.element[block.taps() + (tap - left)] = top->index * kw + tap->index;
                }
            }
            blocks.push_back(block);
        }
    }
    return blocks;
}

}  // namespace

// Plane by plane, long rows are as quick, and nothing has to be turned over. Measured: 7x7 pixels 2 to 6 times as fast,
// 14x14 1.6 to 2.8 times with stride 2; level at about the sizes below. With stride 3, where single planes have to be
// copied apart, 56x56 still 2 to 4 times.
template <class T>
bool suits_depthwise(const ConvShape& s, Pass pass) {
    if (s.cg() != 1 || s.kg() != 1 || s.kh * s.kw == 1) return false;
    const index_t lanes = kernels_of<T>().lanes, vectors = ceil_div(s.groups, lanes);
    const index_t stride = std::max(s.stride.h, s.stride.w);
    const bool data = pass == Pass::backward_data, weight = pass == Pass::backward_weight;
    const index_t easier = stride > 2 ? 32 : stride == 2 ? (data || weight ? 6 : 3) : weight ? 3 : 1;
    const index_t height = s.h + s.pad.top + s.pad.bottom, width = s.w + s.pad.left + s.pad.right;
    constexpr index_t most = 1 << 13;  // pixels that all lanes of must stay in the L2 cache
    return height <= most && width <= most && height * width <= most &&
           s.h * s.w * vectors * lanes <= (64 + 5 * lanes) * easier * s.groups;
}

template <class T>
void correlate_depthwise(const std::vector<Correlation<T>>& phases) {
    if (phases.empty() || phases[0].images == 0) return;
    const TypedKernels<T>& kernel = kernels_of<T>();
    const Correlation<T>& any = phases[0];
    const index_t lanes = kernel.lanes, vectors = ceil_div(any.groups, lanes), out_plane = any.out_h * any.out_w;
    Planes<T> planes(any.v.in, any.h.in);
    index_t taps = 0, results = 0;
    double macs = 0;  // of a plane
    for (const Correlation<T>& c : phases) {
        planes.reach(c.v, c.h);
        taps += c.taps();
        results += c.v.out * c.h.out;
        macs += static_cast<double>(c.v.out * c.h.out * c.taps());
    }
    std::vector<std::vector<TapBlock>> blocks;
    for (const Correlation<T>& c : phases) blocks.push_back(blocks_of_taps(planes, c.v, c.h, c.kw));

    // The weights and biases of a vector of channels, in the order in which they are met.
    Scratch<T> weights(vectors * (taps + 1) * lanes);
    std::fill_n(weights.data(), vectors * (taps + 1) * lanes, T(0));
    for (index_t group = 0; group < any.groups; ++group) {
        T* to = weights.data() + group / lanes * (taps + 1) * lanes + group % lanes;
        if (any.bias) *to = any.bias[group];
        for (const std::vector<TapBlock>& of_phase : blocks) {
            for (const TapBlock& block : of_phase) {
                for (int i = 0; i < block.taps(); ++i) {
                    to += lanes;
                    *to = any.weight[group * any.weight_group + block.element[i]];
                }
            }
        }
    }

    const double element = static_cast<double>(planes.pixels() + out_plane) * element_ns / 4;
    const auto run = [&](index_t vector, T* pixels, T* y) {
        const index_t channel = vector % vectors * lanes, count = std::min(lanes, any.groups - channel);
        const index_t plane = vector / vectors * any.groups + channel;
        planes.read(any.in + plane * planes.height * planes.width, count, y, pixels);
        const T* const bias = weights.data() + vector % vectors * (taps + 1) * lanes;
        const T* weight = bias + lanes;
        for (index_t i = 0; results < out_plane && i < out_plane; ++i) std::copy_n(bias, lanes, y + i * lanes);
        for (std::size_t p = 0; p < phases.size(); ++p) {
            const Axis &v = phases[p].v, &h = phases[p].h;
            T* const to = y + (v.first * any.out_w + h.first) * lanes;
            for (const TapBlock& block : blocks[p]) {
                const bool first = &block == &blocks[p].front(), last = &block == &blocks[p].back();
                kernel.depthwise_taps[block.rows][block.columns](pixels, block.offset, v.stride * planes.row(),
                                                                 h.stride * planes.step(), weight,
                                                                 first ? bias : nullptr, any.relu && last, v.out, h.out,
                                                                 to, v.step * any.out_w * lanes, h.step * lanes);
                weight += block.taps() * lanes;
            }
        }
        kernel.pack_transposed(y, lanes, out_plane, count, any.out + plane * out_plane, out_plane, out_plane);
    };
    const double vector_ns = static_cast<double>(lanes) * (macs * fma_ns + element);
    const index_t all = any.images * vectors;
    const index_t grain = static_cast<index_t>(4 * thread_ns / vector_ns) + 1;  // vectors that share their scratch
    parallel_for(ceil_div(all, grain), static_cast<double>(grain) * vector_ns, [&](index_t task) {
        Scratch<T> pixels(planes.pixels() * lanes), y(std::max(out_plane, planes.height * planes.width) * lanes);
        if (planes.padded()) std::fill_n(pixels.data(), planes.pixels() * lanes, T(0));
        for (index_t i = task * grain; i < std::min((task + 1) * grain, all); ++i) {
            run(i, pixels.data(), y.data());
        }
    });
}

// Every vector of channels is summed over the images in a few parts, cut by the shape alone, so that the sums do not
// depend on the number of threads.
template <class T>
void conv2d_backward_weight_depthwise(const ConvShape& s, const T* dy, const T* x, T* dweight, T* dbias) {
    if (!dweight && !dbias) return;
    const TypedKernels<T>& kernel = kernels_of<T>();
    const Axis v = forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top);
    const Axis h = forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left);
    Planes<T> planes(s.h, s.w);
    planes.reach(v, h);
    const Planes<T> gradients(s.oh, s.ow);
    const std::vector<TapBlock> blocks = blocks_of_taps(planes, v, h, s.kw);
    const index_t lanes = kernel.lanes, vectors = ceil_div(s.groups, lanes), taps = s.kh * s.kw;
    const index_t parts = std::clamp<index_t>(64 / vectors, 1, std::max<index_t>(s.n, 1));
    const index_t sums_of_part = (taps + 1) * lanes;  // of a vector of channels: of its biases, then of its weights
    Scratch<T> sums(vectors * parts * sums_of_part);
    const double work = static_cast<double>(s.oh * s.ow * taps) * fma_ns +
                        static_cast<double>(planes.pixels() + s.oh * s.ow) * element_ns / 4;
    parallel_for(vectors * parts, static_cast<double>(ceil_div(s.n, parts) * lanes) * work, [&](index_t task) {
        const index_t channel = task / parts * lanes, part = task % parts, count = std::min(lanes, s.groups - channel);
        T* const bias_sum = sums.data() + task * sums_of_part;
        std::fill_n(bias_sum, sums_of_part, T(0));
        Scratch<T> pixels(planes.pixels() * lanes), buffer(s.h * s.w * lanes), gradient(s.oh * s.ow * lanes);
        Scratch<T> ones(lanes);
        std::fill_n(ones.data(), lanes, T(1));
        const index_t same = 0;
        if (planes.padded()) std::fill_n(pixels.data(), planes.pixels() * lanes, T(0));
        for (index_t image = share_begin(part, parts, s.n); image < share_begin(part + 1, parts, s.n); ++image) {
            const index_t plane = image * s.groups + channel;
            gradients.read(dy + plane * s.oh * s.ow, count, nullptr, gradient.data());
            if (dbias) kernel.depthwise_products[1][1](ones.data(), &same, 0, 0, gradient.data(), s.oh, s.ow, bias_sum);
            if (!dweight) continue;
            planes.read(x + plane * s.h * s.w, count, buffer.data(), pixels.data());
            T* to = bias_sum + lanes;
            for (const TapBlock& block : blocks) {
                kernel.depthwise_products[block.rows][block.columns](pixels.data(), block.offset,
                                                                     v.stride * planes.row(), h.stride * planes.step(),
                                                                     gradient.data(), s.oh, s.ow, to);
                to += block.taps() * lanes;
            }
        }
    });
    for (index_t group = 0; group < s.groups; ++group) {
        T* const total = sums.data() + group / lanes * parts * sums_of_part + group % lanes;
        for (index_t part = 1; part < parts; ++part) {
            for (index_t i = 0; i <= taps; ++i) total[i * lanes] += total[part * sums_of_part + i * lanes];
        }
        if (dbias) dbias[group] = *total;
        const T* from = total;
        for (const TapBlock& block : blocks) {
            for (int i = 0; dweight && i < block.taps(); ++i) {
                from += lanes;
                dweight[group * taps + block.element[i]] = *from;
            }
        }
    }
}

template bool suits_depthwise<float>(const ConvShape&, Pass);
template bool suits_depthwise<double>(const ConvShape&, Pass);
template void correlate_depthwise(const std::vector<Correlation<float>>&);
template void correlate_depthwise(const std::vector<Correlation<double>>&);
template void conv2d_backward_weight_depthwise(const ConvShape&, const float*, const float*, float*, float*);
template void conv2d_backward_weight_depthwise(const ConvShape&, const double*, const double*, double*, double*);

}  // namespace npconv
