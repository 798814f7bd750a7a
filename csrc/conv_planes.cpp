#include "conv_planes.hpp"

#include <algorithm>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t plane_elements = 1 << 13;  // of a slab, for each channel: it stays in the L1 cache

/// The taps of all channels, in runs of such that lie one below the other in a slab.
struct Runs {
    index_t length = 1;             // taps of a run
    std::vector<index_t> offsets;   // where in a slab the pixels of a run's first tap lie
    std::vector<index_t> elements;  // tap by tap: which of a filter's weights it is

    Runs(const SlabLayout& layout, const Axis& v, const Axis& h, index_t channels, index_t weight_c, index_t kw) {
        std::vector<Tap> column = v.taps;
        std::sort(column.begin(), column.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
        const auto taps = static_cast<index_t>(column.size());
        const auto apart = [&](const Tap& a, const Tap& b) {
            return layout.tap_offset(b, h.taps[0]) - layout.tap_offset(a, h.taps[0]) != layout.width();
        };
        const bool gaps = std::adjacent_find(column.begin(), column.end(), apart) != column.end();
        if (!gaps && taps <= longest_run) length = taps;
        for (index_t channel = 0; channel < channels; ++channel) {
            for (const Tap& th : h.taps) {
                for (index_t t = 0; t < taps; ++t) {
                    const Tap& tv = column[static_cast<std::size_t>(t)];
                    elements.push_back(channel * weight_c + tv.index * kw + th.index);
                    if (t % length > 0) continue;
                    offsets.push_back(channel * layout.channel_stride() + layout.tap_offset(tv, th));
                }
            }
        }
    }
    index_t count() const { return static_cast<index_t>(offsets.size()); }
};

/// One phase, and what is the same for all its blocks.
template <class T>
struct Phase {
    const Correlation<T>& c;
    SlabLayout layout;
    Runs runs;
    std::vector<T> weights;  // in the order of the runs, for every output channel
    // Where a run is a column of taps, and meets pixels of one image as they lie, that image can be read in place.
    bool plain;
    std::vector<index_t> columns;  // of the runs then: how far from a result
    index_t left, right;           // how far before and behind a row's first pixel its vectors reach
    std::vector<T> zeros;          // a row beyond the image

    Phase(const Correlation<T>& correlation, index_t block_rows)
        : c(correlation),
          layout(c.v, c.h, block_rows, c.h.out),
          runs(layout, c.v, c.h, c.in_channels, c.weight_c, c.kw) {
        weights.reserve(static_cast<std::size_t>(c.groups * c.out_channels * c.reduction()));
        for (index_t i = 0; i < c.groups * c.out_channels; ++i) {
            const T* const filter = c.weight + i / c.out_channels * c.weight_group + i % c.out_channels * c.weight_m;
            for (const index_t element : runs.elements) weights.push_back(filter[element]);
        }
        plain = c.v.stride == 1 && c.h.stride == 1 && c.in_channels == 1 &&
                runs.length == static_cast<index_t>(c.v.taps.size());
        for (const Tap& tap : c.h.taps) columns.push_back(tap.offset);
        left = std::max<index_t>(-c.h.reach_from, 0);
        right = c.h.reach_from + c.h.reach + std::max<index_t>(c.h.out, kernels_of<T>().lanes);
        if (plain) zeros.resize(static_cast<std::size_t>(left + right));
    }

    /// Rows [row, row + rows) of the results of one group; those of all images are counted through. Pixels are read
    /// once for each run and output channel; the sums of several rows are in registers at a time.
    void run(index_t group, index_t row, index_t rows, std::vector<Strip>& strips, const T** source, T* slab,
             T* buffer) const {
        const index_t in_plane = c.v.in * c.h.in, out_plane = c.out_h * c.out_w;
        const TypedKernels<T>& kernel = kernels_of<T>();
        const T* const image = c.in + group * c.in_channels * in_plane;
        const T* const end = c.in + c.images * c.groups * c.in_channels * in_plane;
        const bool in_place = plain && image - c.in >= left && end - image >= in_plane - c.h.in + right;
        const index_t read = rows + runs.length - 1;
        if (in_place) {
            const index_t first = row + c.v.reach_from;
            for (index_t i = 0; i < read; ++i) {
                const bool inside = first + i >= 0 && first + i < c.v.in;
                source[i] = inside ? image + (first + i) * c.h.in : zeros.data() + left;
            }
        } else {
            strips[0] = {group, row, rows, 0};
            layout.fill({row, row + rows, 0, c.h.out}, strips, c.in, c.in_channels * in_plane, c.in_channels, T(0),
                        slab);
            for (index_t i = 0; i < read; ++i) source[i] = slab + i * layout.width();
        }
        const bool direct = c.h.step == 1;
        for (index_t m = 0; m < c.out_channels; ++m) {
            const index_t channel = group % c.groups * c.out_channels + m;
            T* const to =
                c.out + (group * c.out_channels + m) * out_plane + (c.v.first + row * c.v.step) * c.out_w + c.h.first;
            kernel.weighted_rows[runs.length](runs.count(), source, in_place ? columns.data() : runs.offsets.data(),
                                              in_place ? c.h.in : layout.size(c.in_channels) + kernel.lanes,
                                              weights.data() + channel * c.reduction(), c.bias ? c.bias[channel] : T(0),
                                              c.relu, rows, c.h.out, direct ? to : buffer,
                                              direct ? c.v.step * c.out_w : c.h.out);
            const Segment whole{0, 0, static_cast<int>(c.h.out)};
            if (!direct) {
                kernel.store_columns(buffer, c.h.out, rows, &whole, 1, c.h.step, nullptr, false, false, to,
                                     c.v.step * c.out_w);
            }
        }
    }
};

}  // namespace

template <class T>
void correlate_planes(const std::vector<Correlation<T>>& phases) {
    if (phases.empty() || phases[0].images == 0) return;
    const index_t images = phases[0].images, groups = phases[0].groups, in_channels = phases[0].in_channels;
    index_t most_rows = 1, block_rows = 1 << 30;
    for (const Correlation<T>& c : phases) {
        most_rows = std::max(most_rows, c.v.out);
        block_rows = std::min(block_rows, rows_within(c.v, c.h, c.h.out, plane_elements));
    }
    block_rows = std::min(block_rows, most_rows);
    std::vector<Phase<T>> parts;
    parts.reserve(phases.size());
    index_t slab_size = 0, buffer_size = 0;
    bool short_rows = false;  // than a vector
    double block_ns = thread_ns / 16;
    for (const Correlation<T>& c : phases) {
        parts.emplace_back(c, block_rows);
        slab_size = std::max(slab_size, parts.back().layout.size(in_channels));
        short_rows = short_rows || c.h.out < kernels_of<T>().lanes;
        if (c.h.step > 1) buffer_size = std::max(buffer_size, block_rows * c.h.out);
        block_ns += static_cast<double>(block_rows * c.h.out * c.out_channels * c.reduction()) * 2 * fma_ns;
    }
    const index_t blocks = ceil_div(most_rows, block_rows), all = images * groups * blocks;
    const index_t grain = static_cast<index_t>(4 * thread_ns / block_ns) + 1;  // blocks that share their scratch
    parallel_for(ceil_div(all, grain), static_cast<double>(grain) * block_ns, [&](index_t task) {
        Scratch<T> slab(slab_size + 2 * kernels_of<T>().lanes), buffer(buffer_size);
        Scratch<const T*> source(block_rows + longest_run - 1);
        if (short_rows) slab.clear();  // lanes behind the last row are computed, too
        std::vector<Strip> strips(1);
        for (index_t i = task * grain; i < std::min((task + 1) * grain, all); ++i) {
            const index_t group = i / blocks, row = i % blocks * block_rows;
            for (const Phase<T>& part : parts) {
                const index_t rows = std::min(block_rows, part.c.v.out - row);
                if (rows <= 0 || part.c.h.out == 0) continue;
                part.run(group, row, rows, strips, source.data(), slab.data(), buffer.data());
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
    const SlabLayout layout(v, h, block_rows, s.ow);
    const Runs runs(layout, v, h, s.cg(), s.kh * s.kw, s.kw);
    const index_t count = s.cg() * s.kh * s.kw;
    // From four filters on, their planes share the loads of pixels better than the taps of a run do (1.1 to 1.3 times
    // as fast), if there are registers for all their sums; if not, it is the other way round (AVX2).
    const bool planes_share = s.kg() >= 4 && kernel.mr * (kernel.nr / kernel.lanes) >= 28;
    std::vector<index_t> taps;  // in the order of the runs
    for (const index_t offset : runs.offsets) {
        for (index_t t = 0; t < runs.length; ++t) taps.push_back(offset + t * layout.width());
    }
    const index_t row = s.kg() * (count + 1);  // the gradients of a group: of the weights and of the bias
    const index_t parts = std::clamp<index_t>(64 / s.groups, 1, std::max<index_t>(s.n, 1));
    Scratch<T> partials(s.groups * parts * row);

    const double task_ns = static_cast<double>(ceil_div(s.n, parts) * s.oh * s.ow * s.kg() * count) * 2 * fma_ns;
    parallel_for(s.groups * parts, task_ns, [&](index_t task) {
        const index_t group = task / parts, part = task % parts;
        T* const sums = partials.data() + task * row;
        std::fill(sums, sums + row, T(0));
        Scratch<T> slab(layout.size(s.cg()) + 2 * kernel.lanes), buffer(s.kg() * s.oh * s.ow + kernel.lanes);
        std::vector<Strip> strips(1);
        const T* planes[most_filters];
        for (index_t image = share_begin(part, parts, s.n); image < share_begin(part + 1, parts, s.n); ++image) {
            for (index_t k = 0; k < s.kg(); ++k) {
                planes[k] = dy(image, group * s.kg() + k, buffer.data() + k * s.oh * s.ow);
            }
            for (index_t top = 0; top < s.oh; top += block_rows) {
                const index_t rows = std::min(block_rows, s.oh - top), first = image * s.oh + top;
                const Block block{first, first + rows, 0, s.ow};
                strips[0] = {image, top, rows, 0};
                layout.fill(block, strips, x + group * s.cg() * s.h * s.w, s.c * s.h * s.w, s.cg(), T(0), slab.data());
                const T* from[most_filters];
                for (index_t k = 0; k < s.kg(); ++k) from[k] = planes[k] + top * s.ow;
                if (dweight && planes_share) {
                    kernel.products_of_rows(s.kg(), count, slab.data(), taps.data(), rows, layout.width(), s.ow, from,
                                            s.ow, sums, count + 1);
                }
                for (index_t k = 0; dweight && !planes_share && k < s.kg(); ++k) {
                    kernel.products_of_runs[runs.length](runs.count(), slab.data(), runs.offsets.data(), from[k], s.ow,
                                                         rows, layout.width(), s.ow, sums + k * (count + 1));
                }
                for (index_t k = 0; dbias && k < s.kg(); ++k) {
                    sums[k * (count + 1) + count] += static_cast<T>(kernel.sum(from[k], rows * s.ow));
                }
            }
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
                dweight[(group * s.kg() + k) * count + runs.elements[static_cast<std::size_t>(i)]] = from[i];
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
