#include "conv_dilated.hpp"

#include <algorithm>

#include "conv_weight.hpp"
#include "correlation.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "winograd.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t elements_apart = 1 << 21;  // of images that are put apart at a time

/// Planes of h x w pixels, and the parts into which they are put: pixel (i, j) of part (r, q) is pixel (d.h*i + r -
/// before.h, d.w*j + q - before.w) of the plane, or 0 outside.
struct Parts {
    Pair d, before, plane, part;

    Parts(Pair dilation, Pair before_, Pair plane_) : d(dilation), before(before_), plane(plane_) {
        part = {(plane.h - 1 + before.h) / d.h + 1, (plane.w - 1 + before.w) / d.w + 1};
    }
    index_t count() const { return d.h * d.w; }
    index_t plane_size() const { return plane.h * plane.w; }
    index_t part_size() const { return part.h * part.w; }

    /// Some successive pixels along an axis: [begin, end) of a part are [first, ...) of the plane, every d-th.
    struct Run {
        index_t begin, end, first;
        Run(index_t d, index_t before, index_t r, index_t plane) : begin(r < before ? 1 : 0) {
            first = begin * d + r - before;
            end = first < plane ? begin + (plane - 1 - first) / d + 1 : begin;
        }
        index_t count() const { return end - begin; }
    };

    /// (images, channels, plane) to (images, count(), channels, part).
    template <class T>
    void put_apart(index_t images, index_t channels, const T* planes, T* parts) const {
        const TypedKernels<T>& kernel = kernels_of<T>();
        const T* const end = planes + images * channels * plane_size();
        parallel_for(images * channels, plane_ns(), [&](index_t i) {
            Scratch<T> buffer(part_size() + kernel.lanes);  // more than a part may be written
            T* const to = buffer.data();
            for_parts(i, channels, [&](index_t of_plane, index_t of_part, const Run& v, const Run& h) {
                const index_t rows = h.count() > 0 ? v.count() : 0;
                std::fill(to, to + v.begin * part.w, T(0));
                kernel.copy_rows(planes + of_plane, end, d.h * plane.w, d.w, rows, h.count(), h.begin, T(0),
                                 to + v.begin * part.w, part.w);
                std::fill(to + (v.begin + rows) * part.w, to + part_size(), T(0));
                std::copy(to, to + part_size(), parts + of_part);
            });
        });
    }

    /// The way back.
    template <class T>
    void put_together(index_t images, index_t channels, const T* parts, T* planes) const {
        const TypedKernels<T>& kernel = kernels_of<T>();
        parallel_for(images * channels, plane_ns(), [&](index_t i) {
            for_parts(i, channels, [&](index_t of_plane, index_t of_part, const Run& v, const Run& h) {
                const Segment row{0, 0, static_cast<int>(h.count())};
                kernel.store_columns(parts + of_part + v.begin * part.w + h.begin, part.w, v.count(), &row, 1, d.w,
                                     nullptr, false, false, planes + of_plane, d.h * plane.w);
            });
        });
    }

   private:
    double plane_ns() const { return static_cast<double>(2 * plane_size()) * element_ns; }

    /// Calls body(of_plane, of_part, v, h) for the parts of plane i: where their first pixels are, and where the parts.
    template <class Body>
    void for_parts(index_t i, index_t channels, const Body& body) const {
        index_t of_part = (i / channels * count() * channels + i % channels) * part_size();
        for (index_t r = 0; r < d.h; ++r) {
            const Run v(d.h, before.h, r, plane.h);
            for (index_t q = 0; q < d.w; ++q, of_part += channels * part_size()) {
                const Run h(d.w, before.w, q, plane.w);
                body(i * plane_size() + v.first * plane.w + h.first, of_part, v, h);
            }
        }
    }
};

/// What is the same in either direction.
struct Apart {
    Parts x, y;
    ConvShape shape;  // of the parts of one image

    explicit Apart(const ConvShape& s)
        : x(s.dilation, {s.pad.top % s.dilation.h, s.pad.left % s.dilation.w}, {s.h, s.w}),
          y(s.dilation, {0, 0}, {s.oh, s.ow}),
          shape(s) {
        shape.n = x.count();
        shape.pad = {s.pad.top / s.dilation.h, 0, s.pad.left / s.dilation.w, 0};
        shape.dilation = {1, 1};
        shape.h = x.part.h, shape.w = x.part.w;
        shape.oh = y.part.h, shape.ow = y.part.w;
    }

    /// How many images to put apart at a time; 0 if one takes too much memory.
    index_t at_a_time() const {
        const index_t of_image = x.count() * (shape.c * x.part_size() + shape.k * y.part_size());
        const index_t weights = shape.k * shape.cg() * shape.kh * shape.kw;  // are packed again every time
        return std::max(elements_apart, 2 * weights) / of_image;
    }

    /// Calls body(first, some) for some images at a time, from `first` on: by the shape alone, as sums depend on it.
    template <class Body>
    void for_images(index_t n, const Body& body) const {
        const index_t most = at_a_time();
        for (index_t first = 0; first < n; first += most) body(first, std::min(most, n - first));
    }
    ConvShape of_images(index_t n) const {
        ConvShape s = shape;
        s.n *= n;
        return s;
    }
};

}  // namespace

template <class T>
bool suits_apart(const ConvShape& s, Algorithm algorithm) {
    if (algorithm != Algorithm::automatic || s.n == 0) return false;
    if (s.dilation.h * s.dilation.w == 1 || s.stride.h > 1 || s.stride.w > 1) return false;
    // Measured: 1.1 to 2.2 times as fast. With fewer channels, or smaller parts, moving takes longer than what it
    // saves.
    if (s.cg() < 32 || s.kg() < 32) return false;
    const Apart apart(s);
    const auto suits = [](const Parts& p) {
        return std::min(p.part.h, p.part.w) >= 5 && 2 * p.count() * p.part_size() <= 3 * p.plane_size();
    };
    if (!suits(apart.x) || !suits(apart.y) || apart.at_a_time() == 0) return false;
    const Correlation<T> correlation = forward_correlation<T>(apart.shape, nullptr, nullptr, nullptr, nullptr);
    const Way way = way_of(correlation, winograd_form(apart.shape, algorithm));
    return way == Way::winograd || way == Way::unit;
}

template <class T>
void conv2d_forward_apart(const ConvShape& s, const T* x, const T* weight, const T* bias, bool relu, T* y) {
    const Apart apart(s);
    apart.for_images(s.n, [&](index_t first, index_t some) {
        Scratch<T> x_parts(some * apart.x.count() * s.c * apart.x.part_size());
        Scratch<T> y_parts(some * apart.y.count() * s.k * apart.y.part_size());
        apart.x.put_apart(some, s.c, x + first * s.c * s.h * s.w, x_parts.data());
        conv2d_forward(apart.of_images(some), x_parts.data(), weight, bias, y_parts.data(), Algorithm::automatic, relu);
        apart.y.put_together(some, s.k, y_parts.data(), y + first * s.k * s.oh * s.ow);
    });
}

template <class T>
void conv2d_backward_data_apart(const ConvShape& s, const T* dy, const T* weight, const T* bias, T* dx) {
    const Apart apart(s);
    apart.for_images(s.n, [&](index_t first, index_t some) {
        Scratch<T> dx_parts(some * apart.x.count() * s.c * apart.x.part_size());
        Scratch<T> dy_parts(some * apart.y.count() * s.k * apart.y.part_size());
        apart.y.put_apart(some, s.k, dy + first * s.k * s.oh * s.ow, dy_parts.data());
        conv2d_backward_data(apart.of_images(some), dy_parts.data(), weight, dx_parts.data(), Algorithm::automatic,
                             bias);
        apart.x.put_together(some, s.c, dx_parts.data(), dx + first * s.c * s.h * s.w);
    });
}

template <class T>
void conv2d_backward_weight_apart(const ConvShape& s, const T* dy, const T* x, T* dweight, T* dbias) {
    const Apart apart(s);
    apart.for_images(s.n, [&](index_t first, index_t some) {
        Scratch<T> x_parts(some * apart.x.count() * s.c * apart.x.part_size());
        Scratch<T> dy_parts(some * apart.y.count() * s.k * apart.y.part_size());
        apart.x.put_apart(some, s.c, x + first * s.c * s.h * s.w, x_parts.data());
        apart.y.put_apart(some, s.k, dy + first * s.k * s.oh * s.ow, dy_parts.data());
        const auto gradients = [&](T* dw, T* db) {
            conv2d_backward_weight(apart.of_images(some), dy_parts.data(), x_parts.data(), dw, db);
        };
        if (first == 0) {
            gradients(dweight, dbias);
        } else {
            add_gradients(s, dweight, dbias, gradients);
        }
    });
}

template bool suits_apart<float>(const ConvShape&, Algorithm);
template bool suits_apart<double>(const ConvShape&, Algorithm);
template void conv2d_forward_apart(const ConvShape&, const float*, const float*, const float*, bool, float*);
template void conv2d_forward_apart(const ConvShape&, const double*, const double*, const double*, bool, double*);
template void conv2d_backward_data_apart(const ConvShape&, const float*, const float*, const float*, float*);
template void conv2d_backward_data_apart(const ConvShape&, const double*, const double*, const double*, double*);
template void conv2d_backward_weight_apart(const ConvShape&, const float*, const float*, float*, float*);
template void conv2d_backward_weight_apart(const ConvShape&, const double*, const double*, double*, double*);

}  // namespace npconv
