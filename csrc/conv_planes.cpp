#include "conv_planes.hpp"

#include <algorithm>
#include <deque>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t plane_elements = 1 << 13;  // of a slab, for each channel: it stays in the L1 cache

/// The pixels of a plane, or of a few, as the kernels meet them: result (i, j) meets those at
/// row[i*stride + t][columns[r] + j*stride], for each run r of `length` taps, one below the other; outside of [0,
/// width) they count as 0.
template <class T>
class Pixels {
   public:
    index_t length = 1, stride = 1;
    index_t width;
    std::vector<index_t> columns;
    std::vector<index_t> elements;  // run by run: which of a filter's weights a tap is

    Pixels(const Axis& v, const Axis& h, index_t block_rows, index_t channels, index_t weight_c, index_t kw,
           bool always_copy = false)
        : v_(v), h_(h), channels_(channels), layout_(v, h, block_rows, h.out) {
        const index_t lanes = kernels_of<T>().lanes;
        std::vector<Tap> column = v.taps;
        std::sort(column.begin(), column.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
        const auto taps = static_cast<index_t>(column.size());
        const auto is_run = [&](index_t next, auto&& place) {
            const auto apart = [&](const Tap& a, const Tap& b) { return place(b) - place(a) != next; };
            return taps <= longest_run && std::adjacent_find(column.begin(), column.end(), apart) == column.end();
        };
        const index_t most = h.stride == 1 ? longest_run : longest_strided_run;
        in_place_ = !always_copy && channels == 1 && taps <= most && v.stride == h.stride &&
                    h.stride <= longest_stride && is_run(1, [](const Tap& tap) { return tap.offset; });
        if (in_place_) {
            length = taps;
            stride = h.stride;
            width = h.in;
            top_ = column[0].offset;
            const auto [leftmost, rightmost] = std::minmax_element(
                h.taps.begin(), h.taps.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
            left_ = std::max<index_t>(-leftmost->offset, 0);
            right_ = std::max<index_t>(rightmost->offset, 0) + ceil_div(h.out, lanes) * lanes * stride;
            zeros_.resize(static_cast<std::size_t>(left_ + right_));
            scratch_ = left_ + rows_read(block_rows) * width + right_;
        } else {
            const auto place = [&](const Tap& tap) { return layout_.tap_offset(tap, h.taps[0]); };
            if (is_run(layout_.width(), place)) length = taps;
            scratch_ = layout_.size(channels) + 2 * lanes;
            width = scratch_ - lanes;  // nothing to be masked
        }
        for (const Tap& th : h.taps) {
            for (index_t channel = 0; channel < channels; ++channel) {
                for (index_t t = 0; t < taps; ++t) {
                    const Tap& tv = column[static_cast<std::size_t>(t)];
                    elements.push_back(channel * weight_c + tv.index * kw + th.index);
                    if (t % length > 0) continue;
                    const index_t offset = channel * layout_.channel_stride() + layout_.tap_offset(tv, th);
                    columns.push_back(in_place_ ? th.offset : offset);
                }
            }
        }
    }

    index_t runs() const { return static_cast<index_t>(columns.size()); }
    index_t rows_read(index_t rows) const { return (rows - 1) * stride + length; }
    index_t slab_width() const { return layout_.width(); }
    index_t scratch() const { return scratch_; }  ///< the elements that `read` needs

    /// Tells where the rows lie that results [first, first + rows) meet: in the image, if all that the vectors of its
    /// rows reach is between `begin` and `end`, or in a copy.
    void read(const T* image, const T* begin, const T* end, index_t first, index_t rows, T* copy, const T** row) const {
        const index_t read = rows_read(rows);
        if (!in_place_) {
            const std::vector<Strip> strips{{0, first, rows, 0}};
            layout_.fill({first, first + rows, 0, h_.out}, strips, image, 0, channels_, T(0), copy);
            for (index_t i = 0; i < read; ++i) row[i] = copy + i * layout_.width();
            return;
        }
        const index_t from = first * stride + top_;
        const index_t above = std::clamp<index_t>(-from, 0, read);  // rows beyond the image
        const index_t below = std::clamp<index_t>(v_.in - from, above, read);
        const T* pixels = image + from * width;  // of row 0
        if (image - begin < left_ || end - image < (v_.in - 1) * width + right_) {
            std::copy(pixels + above * width, pixels + below * width, copy + left_ + above * width);
            pixels = copy + left_;
        }
        std::fill(row, row + above, zeros_.data() + left_);
        for (index_t i = above; i < below; ++i) row[i] = pixels + i * width;
        std::fill(row + below, row + read, zeros_.data() + left_);
    }

   private:
    const Axis& v_;
    const Axis& h_;
    index_t channels_;
    bool in_place_;
    SlabLayout layout_;             // of the copy, if not in place
    index_t top_ = 0;               // how far below a result's row the pixels of its first tap lie
    index_t left_ = 0, right_ = 0;  // how far before and behind a row's first pixel its vectors reach
    std::vector<T> zeros_;          // a row beyond the image
    index_t scratch_;
};

/// One phase, or two whose results alternate along the rows, and what is the same for all their blocks.
template <class T>
struct Phase {
    Correlation<T> c;  // with the taps of both
    index_t even_runs = 0, odd_runs = 0;
    Pixels<T> pixels;
    std::vector<T> weights;  // in the order of the runs, for every output channel

    Phase(const Correlation<T>& correlation, const Correlation<T>* odd, index_t block_rows)
        : c(odd ? of_both(correlation, *odd) : correlation),
          pixels(c.v, c.h, block_rows, c.in_channels, c.weight_c, c.kw) {
        if (odd) {
            odd_runs = c.in_channels * static_cast<index_t>(odd->h.taps.size()) *
                       static_cast<index_t>(c.v.taps.size()) / pixels.length;
            even_runs = pixels.runs() - odd_runs;
        }
        weights.reserve(static_cast<std::size_t>(c.groups * c.out_channels * c.reduction()));
        for (index_t i = 0; i < c.groups * c.out_channels; ++i) {
            const T* const filter = c.weight + i / c.out_channels * c.weight_group + i % c.out_channels * c.weight_m;
            for (const index_t element : pixels.elements) weights.push_back(filter[element]);
        }
    }
    Phase(const Phase&) = delete;  // `pixels` refers to `c`

    /// The elements that `run` needs for results on their way.
    index_t buffer(index_t rows) const { return odd_runs == 0 && c.h.step > 1 ? rows * c.h.out : 0; }

    /// Rows [row, row + rows) of the results of one group; those of all images are counted through. Pixels are read
    /// once for each run and output channel; the sums of several rows are in registers at a time.
    void run(index_t group, index_t row, index_t rows, const T** source, T* slab, T* results) const {
        const index_t in_plane = c.v.in * c.h.in, out_plane = c.out_h * c.out_w, ld_out = c.v.step * c.out_w;
        const TypedKernels<T>& kernel = kernels_of<T>();
        pixels.read(c.in + group * c.in_channels * in_plane, c.in,
                    c.in + c.images * c.groups * c.in_channels * in_plane, row, rows, slab, source);
        for (index_t m = 0; m < c.out_channels; ++m) {
            const index_t channel = group % c.groups * c.out_channels + m;
            const T* const weight = weights.data() + channel * c.reduction();
            const T bias = c.bias ? c.bias[channel] : T(0);
            T* const to =
                c.out + (group * c.out_channels + m) * out_plane + (c.v.first + row * c.v.step) * c.out_w + c.h.first;
            if (odd_runs > 0) {
                kernel.alternating_rows[pixels.length](even_runs, odd_runs, source, pixels.columns.data(), pixels.width,
                                                       weight, bias, c.relu, rows, c.out_w, to, ld_out);
                continue;
            }
            const bool direct = c.h.step == 1;
            kernel.weighted_rows[pixels.stride][pixels.length](pixels.runs(), source, pixels.columns.data(),
                                                               pixels.width, weight, bias, c.relu, rows, c.h.out,
                                                               direct ? to : results, direct ? ld_out : c.h.out);
            const Segment whole{0, 0, static_cast<int>(c.h.out)};
            if (!direct) {
                kernel.store_columns(results, c.h.out, rows, &whole, 1, c.h.step, nullptr, false, false, to, ld_out);
            }
        }
    }

   private:
    static Correlation<T> of_both(const Correlation<T>& even, const Correlation<T>& odd) {
        std::vector<Tap> taps = even.h.taps;
        taps.insert(taps.end(), odd.h.taps.begin(), odd.h.taps.end());
        Correlation<T> both = even;
        both.h = Axis(even.h.in, even.h.out, even.h.stride, taps, even.h.first, even.h.step);
        return both;
    }
};

/// The phase whose results lie between those of phase i, along the same rows, or null.
template <class T>
const Correlation<T>* odd_columns(const std::vector<Correlation<T>>& phases, std::size_t i) {
    if (i + 1 == phases.size()) return nullptr;
    const Correlation<T>&even = phases[i], &odd = phases[i + 1];
    const bool alternate = static_cast<index_t>(even.v.taps.size()) <= longest_strided_run && even.h.step == 2 &&
                           even.h.first == 0 && odd.h.first == 1 && even.v.first == odd.v.first;
    return alternate ? &odd : nullptr;
}

}  // namespace

template <class T>
void correlate_planes(const std::vector<Correlation<T>>& phases) {
    if (phases.empty() || phases[0].images == 0) return;
    const index_t images = phases[0].images, groups = phases[0].groups;
    index_t most_rows = 1, block_rows = 1 << 30;
    for (const Correlation<T>& c : phases) {
        most_rows = std::max(most_rows, c.v.out);
        block_rows = std::min(block_rows, rows_within(c.v, c.h, c.h.out, plane_elements));
    }
    block_rows = std::min(block_rows, most_rows);
    std::deque<Phase<T>> parts;
    index_t slab_size = 0, most_read = 0, buffer_size = 0;
    bool short_rows = false;  // than a vector
    double block_ns = thread_ns / 16;
    for (std::size_t i = 0; i < phases.size(); ++i) {
        const Correlation<T>* const odd = odd_columns(phases, i);
        const Phase<T>& part = parts.emplace_back(phases[i], odd, block_rows);
        const Correlation<T>& c = part.c;
        slab_size = std::max(slab_size, part.pixels.scratch());
        most_read = std::max(most_read, part.pixels.rows_read(block_rows));
        buffer_size = std::max(buffer_size, part.buffer(block_rows));
        short_rows = short_rows || c.h.out < kernels_of<T>().lanes;
        block_ns += static_cast<double>(block_rows * c.h.out * c.out_channels * c.reduction()) * 2 * fma_ns;
        if (odd) ++i;
    }
    const index_t blocks = ceil_div(most_rows, block_rows), all = images * groups * blocks;
    const index_t grain = static_cast<index_t>(4 * thread_ns / block_ns) + 1;  // blocks that share their scratch
    parallel_for(ceil_div(all, grain), static_cast<double>(grain) * block_ns, [&](index_t task) {
        Scratch<T> slab(slab_size), buffer(buffer_size);
        Scratch<const T*> source(most_read);
        if (short_rows) slab.clear();  // lanes behind the last row are computed, too
        for (index_t i = task * grain; i < std::min((task + 1) * grain, all); ++i) {
            const index_t group = i / blocks, row = i % blocks * block_rows;
            for (const Phase<T>& part : parts) {
                const index_t rows = std::min(block_rows, part.c.v.out - row);
                if (rows <= 0 || part.c.h.out == 0) continue;
                part.run(group, row, rows, source.data(), slab.data(), buffer.data());
            }
        }
    });
}

// Every weight's gradient is a product of two planes, summed over the images: in a few parts, cut by the shape alone,
// so that the sums do not depend on the number of threads.
template <class T>
void conv2d_backward_weight_by_planes(const ConvShape& s, const PlaneOfDy<T>& dy, const T* x, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    if (!dweight && !dbias) return;
    const Axis v = forward_axis(s.h, s.oh, s.kh, s.stride.h, s.dilation.h, s.pad.top);
    const Axis h = forward_axis(s.w, s.ow, s.kw, s.stride.w, s.dilation.w, s.pad.left);
    const index_t block_rows = std::min(rows_within(v, h, s.ow, plane_elements), s.oh);
    const index_t count = s.cg() * s.kh * s.kw;
    // From four filters on, their planes share the loads of pixels better than the taps of a run do (1.1 to 1.3 times
    // as fast), if there are registers for all their sums; if not, it is the other way round (AVX2).
    const bool planes_share = s.kg() >= 4 && kernel.mr * (kernel.nr / kernel.lanes) >= 28;
    const Pixels<T> pixels(v, h, block_rows, s.cg(), s.kh * s.kw, s.kw, planes_share);
    std::vector<index_t> taps;  // in the order of the runs
    for (index_t i = 0; planes_share && i < count; ++i) {
        taps.push_back(pixels.columns[static_cast<std::size_t>(i / pixels.length)] +
                       i % pixels.length * pixels.slab_width());
    }
    const index_t row = s.kg() * (count + 1);  // the gradients of a group: of the weights and of the bias
    const index_t parts = std::clamp<index_t>(64 / s.groups, 1, std::max<index_t>(s.n, 1));
    Scratch<T> partials(s.groups * parts * row);

    const double task_ns = static_cast<double>(ceil_div(s.n, parts) * s.oh * s.ow * s.kg() * count) * 2 * fma_ns;
    parallel_for(s.groups * parts, task_ns, [&](index_t task) {
        const index_t group = task / parts, part = task % parts;
        T* const sums = partials.data() + task * row;
        std::fill(sums, sums + row, T(0));
        Scratch<T> slab(pixels.scratch()), buffer(s.kg() * s.oh * s.ow + kernel.lanes);
        Scratch<const T*> source(pixels.rows_read(block_rows));
        Scratch<T> vectors(planes_share ? 0 : s.kg() * count * kernel.lanes);  // of sums
        vectors.clear();
        const T* planes[most_filters];
        for (index_t image = share_begin(part, parts, s.n); image < share_begin(part + 1, parts, s.n); ++image) {
            for (index_t k = 0; k < s.kg(); ++k) {
                planes[k] = dy(image, group * s.kg() + k, buffer.data() + k * s.oh * s.ow);
            }
            for (index_t top = 0; top < s.oh; top += block_rows) {
                const index_t rows = std::min(block_rows, s.oh - top);
                pixels.read(x + (image * s.c + group * s.cg()) * s.h * s.w, x, x + s.n * s.c * s.h * s.w, top, rows,
                            slab.data(), source.data());
                const T* from[most_filters];
                for (index_t k = 0; k < s.kg(); ++k) from[k] = planes[k] + top * s.ow;
                if (dweight && planes_share) {
                    kernel.products_of_rows(s.kg(), count, slab.data(), taps.data(), rows, pixels.slab_width(), s.ow,
                                            from, s.ow, sums, count + 1);
                }
                for (index_t k = 0; dweight && !planes_share && k < s.kg(); ++k) {
                    kernel.products_of_runs[pixels.stride][pixels.length](
                        pixels.runs(), source.data(), pixels.columns.data(), pixels.width, from[k], s.ow, rows, s.ow,
                        vectors.data() + k * count * kernel.lanes);
                }
                for (index_t k = 0; dbias && k < s.kg(); ++k) {
                    sums[k * (count + 1) + count] += static_cast<T>(kernel.sum(from[k], rows * s.ow));
                }
            }
        }
        for (index_t i = 0; !planes_share && i < s.kg() * count; ++i) {
            const T* const vector = vectors.data() + i * kernel.lanes;
            sums[i / count * (count + 1) + i % count] = static_cast<T>(kernel.sum(vector, kernel.lanes));
        }
    });
    for (index_t group = 0; group < s.groups; ++group) {
        T* const total = partials.data() + group * parts * row;
        for (index_t part = 1; part < parts; ++part) {
            for (index_t i = 0; i < row; ++i) total[i] += total[part * row + i];
        }
        for (index_t k = 0; k < s.kg(); ++k) {
            const T* const from = total + k * (count + 1);
            for (index_t i = 0; dweight && i < count; ++i) {
                dweight[(group * s.kg() + k) * count + pixels.elements[static_cast<std::size_t>(i)]] = from[i];
            }
            if (dbias) dbias[group * s.kg() + k] = from[count];
        }
    }
}

template void correlate_planes(const std::vector<Correlation<float>>&);
template void correlate_planes(const std::vector<Correlation<double>>&);
template void conv2d_backward_weight_by_planes(const ConvShape&, const PlaneOfDy<float>&, const float*, float*, float*);
template void conv2d_backward_weight_by_planes(const ConvShape&, const PlaneOfDy<double>&, const double*, double*,
                                               double*);

}  // namespace npconv
