#include "avg_pool.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t buffer_elements = 4096;    // rows that are summed up before their windows are: in the L1 cache
constexpr index_t block_elements = 1 << 15;  // of several planes that are turned over at a time: in the L2 cache
constexpr index_t short_plane = 1024;        // so many pixels are added up in the precision of T, many planes at a time

/// What is common to both directions. Sums are made along the columns first, a vector of pixels at a time, and then
/// along the rows of what that gives.
template <class T>
struct Averages {
    const AverageShape& shape;
    std::vector<T> counts;  // of the windows of a row; empty where all windows count the same
    T divisor = 1;          // then

    explicit Averages(const AverageShape& s) : shape(s) {
        if (s.divisor != 0) {
            divisor = static_cast<T>(s.divisor);
        } else if (s.v.even && s.h.even) {
            divisor = static_cast<T>(s.v.count[0] * s.h.count[0]);
        } else {
            counts.assign(s.h.count.begin(), s.h.count.end());
        }
    }
    bool whole_plane() const {
        return shape.v.out == 1 && shape.h.out == 1 && shape.v.end[0] - shape.v.begin[0] == shape.v.in &&
               shape.h.end[0] - shape.h.begin[0] == shape.h.in;
    }
    T divisor_of_plane() const {
        return counts.empty() ? divisor : static_cast<T>(shape.v.count[0] * shape.h.count[0]);
    }
    /// Whether the windows of a row tile it, so that several rows are like one long one.
    bool tiles_rows() const {
        const AverageAxis& h = shape.h;
        return h.kernel > 0 && h.pad == 0 && h.kernel <= h.stride && h.out * h.stride == h.in && counts.empty();
    }
    int stride_index() const { return shape.h.stride <= 2 ? static_cast<int>(shape.h.stride) : 0; }
    double plane_ns() const {
        return static_cast<double>(shape.v.in * shape.h.in + shape.v.out * shape.h.out) * element_ns / 4;
    }
    index_t grain() const {  ///< planes of a task: whole vectors of them
        const index_t lanes = kernels_of<T>().lanes;
        return ceil_div(static_cast<index_t>(thread_ns / plane_ns()), lanes) * lanes + lanes;
    }
};

template <class T>
void forward_plane(const Averages<T>& averages, const T* x, T* buffer, index_t ld, index_t block_rows, T* y) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const AverageAxis &v = averages.shape.v, &h = averages.shape.h;
    const auto average = kernel.average_windows[averages.stride_index()];
    for (index_t row = 0; row < v.out; row += block_rows, y += block_rows * h.out) {
        const index_t rows = std::min(block_rows, v.out - row);
        kernel.sum_rows(rows, x, h.in, v.begin.data() + row, v.end.data() + row, nullptr, buffer + h.pad, ld);
        if (averages.tiles_rows()) {
            average(rows * h.out, h.kernel, h.stride, buffer, nullptr, averages.divisor, y);
            continue;
        }
        for (index_t i = 0; i < rows; ++i) {
            const T* const sums = buffer + i * ld;
            const T* const columns = averages.counts.empty() ? nullptr : averages.counts.data();
            const T divisor = columns ? static_cast<T>(v.count[row + i]) : averages.divisor;
            average(h.out, h.kernel, h.stride, sums, columns, divisor, y + i * h.out);
        }
    }
}

/// The windows that cover each pixel: those of [begin, end).
struct Covering {
    std::vector<index_t> begin, end;

    explicit Covering(const AverageAxis& axis) {
        index_t first = 0, last = 0;
        for (index_t p = 0; p < axis.in; ++p) {
            while (first < axis.out && axis.end[first] <= p) ++first;
            while (last < axis.out && axis.begin[last] <= p) ++last;
            begin.push_back(std::min(first, last));
            end.push_back(last);
        }
    }
};

/// The gradients of a plane over what their windows count, where that is not the same for all.
template <class T>
const T* weighted(const Averages<T>& averages, const T* dy, T* weighted_dy) {
    if (averages.counts.empty()) return dy;
    const AverageAxis &v = averages.shape.v, &h = averages.shape.h;
    for (index_t i = 0; i < v.out; ++i) {
        const auto rows = static_cast<T>(v.count[i]);
        for (index_t j = 0; j < h.out; ++j) {
            weighted_dy[i * h.out + j] = dy[i * h.out + j] / (averages.counts[j] * rows);
        }
    }
    return weighted_dy;
}

/// Along one axis, sum i takes the elements of [begin, end).
struct Ranges {
    const std::vector<index_t>& begin;
    const std::vector<index_t>& end;

    index_t size() const { return static_cast<index_t>(begin.size()); }
};

/// The sums over v x h of some planes (height, width), which may be divided before, and the sums after, by numbers for
/// each pixel (unless they are empty). For windows of no common size and distance: the lanes are planes, [pixel][lane],
/// where any pixels can be added up.
template <class T>
void sum_windows_of_planes(index_t planes, const T* from, index_t height, index_t width, Ranges v, Ranges h,
                           const std::vector<T>& before, const std::vector<T>& after, T* to) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t lanes = kernel.lanes, plane = height * width, results = v.size() * h.size();
    // A block: the result's rows [row, row + rows), of rows [top, bottom) of the planes.
    const index_t block_rows =
        std::clamp<index_t>(block_elements * v.size() / std::max<index_t>(plane * lanes, 1), 1, v.size());
    index_t most_rows = 0;
    for (index_t row = 0; row < v.size(); row += block_rows) {
        most_rows = std::max(most_rows, v.end[std::min(row + block_rows, v.size()) - 1] - v.begin[row]);
    }
    std::vector<index_t> counting(static_cast<std::size_t>(before.empty() ? 0 : most_rows * width + 1));
    std::iota(counting.begin(), counting.end(), 0);
    Scratch<T> pixels(most_rows * width * lanes), sums(width * lanes), result(block_rows * h.size() * lanes);
    for (index_t first = 0; first < planes; first += lanes, from += lanes * plane, to += lanes * results) {
        const index_t count = std::min(lanes, planes - first);
        for (index_t row = 0; row < v.size(); row += block_rows) {
            const index_t rows = std::min(block_rows, v.size() - row), top = v.begin[row];
            const index_t elements = (v.end[row + rows - 1] - top) * width, sum_count = rows * h.size();
            kernel.pack_transposed(from + top * width, plane, count, elements, pixels.data(), lanes, lanes);
            if (!before.empty()) {  // sums of single pixels
                kernel.sum_rows(elements, pixels.data(), lanes, counting.data(), counting.data() + 1,
                                before.data() + top * width, pixels.data(), lanes);
            }
            for (index_t i = 0; i < rows; ++i) {
                const index_t begin = v.begin[row + i] - top, end = v.end[row + i] - top;
                kernel.sum_rows(1, pixels.data(), width * lanes, &begin, &end, nullptr, sums.data(), 0);
                kernel.sum_rows(h.size(), sums.data(), lanes, h.begin.data(), h.end.data(),
                                after.empty() ? nullptr : after.data() + (row + i) * h.size(),
                                result.data() + i * h.size() * lanes, lanes);
            }
            kernel.pack_transposed(result.data(), lanes, sum_count, count, to + row * h.size(), results, sum_count);
        }
    }
}

/// What the windows of a plane are divided by.
template <class T>
std::vector<T> divisors(const Averages<T>& averages) {
    const AverageAxis &v = averages.shape.v, &h = averages.shape.h;
    std::vector<T> of_windows;
    for (index_t i = 0; i < v.out; ++i) {
        for (index_t j = 0; j < h.out; ++j) {
            const auto rows = static_cast<T>(v.count[i]);
            of_windows.push_back(averages.counts.empty() ? averages.divisor : averages.counts[j] * rows);
        }
    }
    return of_windows;
}

}  // namespace

AverageAxis::AverageAxis(index_t in_, index_t out_, index_t kernel_, index_t stride_, index_t pad_, bool count_pad)
    : in(in_), out(out_), kernel(kernel_), stride(stride_), pad(pad_) {
    for (index_t i = 0; i < out; ++i) {
        const index_t from = i * stride - pad, to = std::min(from + kernel, in + pad);
        begin.push_back(std::max<index_t>(from, 0));
        end.push_back(std::max(std::min(to, in), begin.back()));
        count.push_back(count_pad ? to - from : end.back() - begin.back());
        even = even && count.back() == count.front();
    }
}

AverageAxis::AverageAxis(index_t in_, index_t out_) : in(in_), out(out_) {
    if (out > 0 && in % out == 0) {
        *this = AverageAxis(in, out, in / out, in / out, 0, true);
        return;
    }
    for (index_t i = 0; i < out; ++i) {
        begin.push_back(i * in / out);
        end.push_back(ceil_div((i + 1) * in, out));
        count.push_back(end.back() - begin.back());
        even = even && count.back() == count.front();
    }
}

template <class T>
void avg_pool2d_forward(const AverageShape& shape, const T* x, T* y) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const AverageAxis &v = shape.v, &h = shape.h;
    const index_t in_plane = v.in * h.in, out_plane = v.out * h.out;
    if (shape.planes == 0 || out_plane == 0) return;
    const Averages<T> averages(shape);
    const index_t grain = averages.grain();
    if (h.kernel == 0) {
        const std::vector<T> of_windows = divisors(averages);
        parallel_for(
            ceil_div(shape.planes, grain), static_cast<double>(grain) * averages.plane_ns(), [&](index_t task) {
                const index_t first = task * grain;
                sum_windows_of_planes(std::min(grain, shape.planes - first), x + first * in_plane, v.in, h.in,
                                      {v.begin, v.end}, {h.begin, h.end}, {}, of_windows, y + first * out_plane);
            });
        return;
    }
    // A row of sums with the padding around it.
    const index_t ld = averages.tiles_rows() ? h.in : std::max((h.out - 1) * h.stride + h.kernel, h.pad + h.in);
    const index_t block_rows = std::clamp<index_t>(buffer_elements / ld, 1, v.out);
    parallel_for(ceil_div(shape.planes, grain), static_cast<double>(grain) * averages.plane_ns(), [&](index_t task) {
        const index_t first = task * grain, last = std::min(first + grain, shape.planes);
        if (averages.whole_plane()) {
            const T divisor = averages.divisor_of_plane();
            if (in_plane <= short_plane) {
                kernel.average_runs(last - first, x + first * in_plane, in_plane, divisor, y + first);
                return;
            }
            for (index_t p = first; p < last; ++p) {
                y[p] = static_cast<T>(kernel.sum(x + p * in_plane, in_plane) / static_cast<double>(divisor));
            }
            return;
        }
        Scratch<T> buffer(block_rows * ld + 2 * kernel.lanes);
        buffer.clear();  // the padding
        for (index_t p = first; p < last; ++p) {
            forward_plane(averages, x + p * in_plane, buffer.data(), ld, block_rows, y + p * out_plane);
        }
    });
}

template <class T>
void avg_pool2d_backward(const AverageShape& shape, const T* dy, T* dx) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const AverageAxis &v = shape.v, &h = shape.h;
    const index_t in_plane = v.in * h.in, out_plane = v.out * h.out;
    if (shape.planes == 0) return;
    const Averages<T> averages(shape);
    const index_t grain = averages.grain();
    const Covering rows(v), columns(h);
    if (h.kernel == 0) {
        const std::vector<T> of_windows = divisors(averages);
        parallel_for(ceil_div(shape.planes, grain), static_cast<double>(grain) * averages.plane_ns(),
                     [&](index_t task) {
                         const index_t first = task * grain;
                         sum_windows_of_planes(std::min(grain, shape.planes - first), dy + first * out_plane, v.out,
                                               h.out, {rows.begin, rows.end}, {columns.begin, columns.end}, of_windows,
                                               {}, dx + first * in_plane);
                     });
        return;
    }
    const bool tiles = averages.tiles_rows() && h.kernel == h.stride;
    // Zeros before the first window and behind the last one, where the first and the last pixels look for others.
    const index_t before = tiles ? 0 : (h.kernel - 1) / h.stride;
    const index_t padded = (h.pad + h.in - 1) / h.stride + 1;
    const index_t ld = tiles ? h.out : before + std::max(h.out, padded);
    const index_t block_rows = std::clamp<index_t>(buffer_elements / ld, 1, v.in);
    const auto spread = kernel.spread_windows[averages.stride_index()];
    parallel_for(ceil_div(shape.planes, grain), static_cast<double>(grain) * averages.plane_ns(), [&](index_t task) {
        Scratch<T> buffer(block_rows * ld + kernel.lanes), row_buffer(h.pad > 0 ? h.pad + h.in : 0);
        Scratch<T> weighted_dy(averages.counts.empty() ? 0 : out_plane);
        buffer.clear();
        for (index_t p = task * grain; p < std::min((task + 1) * grain, shape.planes); ++p) {
            T* to = dx + p * in_plane;
            if (averages.whole_plane()) {
                std::fill(to, to + in_plane, dy[p] / averages.divisor_of_plane());
                continue;
            }
            // Rows under the same windows are equal: the first of them is made, and copied.
            const auto like_the_last = [&](index_t row) {
                return row > 0 && rows.begin[row] == rows.begin[row - 1] && rows.end[row] == rows.end[row - 1];
            };
            const T* const from = weighted(averages, dy + p * out_plane, weighted_dy.data());
            for (index_t row = 0; row < v.in; row += block_rows) {
                const index_t count = std::min(block_rows, v.in - row);
                kernel.sum_rows(count, from, h.out, rows.begin.data() + row, rows.end.data() + row, nullptr,
                                buffer.data() + before, ld);
                if (tiles && v.stride <= 2) {
                    spread(count * h.in, h.kernel, h.stride, buffer.data(), averages.divisor, to);
                    to += count * h.in;
                    continue;
                }
                for (index_t i = 0; i < count; ++i, to += h.in) {
                    if (like_the_last(row + i)) {
                        std::copy(to - h.in, to, to);
                        continue;
                    }
                    const T* const sums = buffer.data() + i * ld + before;
                    if (h.pad == 0) {
                        spread(h.in, h.kernel, h.stride, sums, averages.divisor, to);
                    } else {
                        spread(h.pad + h.in, h.kernel, h.stride, sums, averages.divisor, row_buffer.data());
                        std::copy(row_buffer.data() + h.pad, row_buffer.data() + h.pad + h.in, to);
                    }
                }
            }
        }
    });
}

template void avg_pool2d_forward(const AverageShape&, const float*, float*);
template void avg_pool2d_forward(const AverageShape&, const double*, double*);
template void avg_pool2d_backward(const AverageShape&, const float*, float*);
template void avg_pool2d_backward(const AverageShape&, const double*, double*);

}  // namespace npconv
