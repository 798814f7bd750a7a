#include "conv_apart.hpp"

#include <algorithm>
#include <vector>

#include "conv_1x1.hpp"
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
/// before.h, d.w*j + q - before.w) of the plane, or 0 outside. Planes are (images, channels, plane), and parts (images,
/// count(), channels, part) or, as channels, (images, channels, count(), part).
struct Parts {
    Pair d, before, plane, part;
    bool as_channels;

    Parts(Pair d_, Pair before_, Pair plane_, bool as_channels_ = false)
        : d(d_), before(before_), plane(plane_), as_channels(as_channels_) {
        part = {(plane.h - 1 + before.h) / d.h + 1, (plane.w - 1 + before.w) / d.w + 1};
    }
    index_t count() const { return d.h * d.w; }
    index_t plane_size() const { return plane.h * plane.w; }
    index_t part_size() const { return part.h * part.w; }
    /// How much memory the parts of a plane take. A single one is the plane itself.
    index_t room() const { return count() == 1 ? 0 : count() * part_size(); }

    /// Some successive pixels along an axis: [begin, end) of a part are [first, ...) of the plane, every d-th.
    struct Run {
        index_t begin, end, first;
        Run(index_t d, index_t before, index_t r, index_t plane) : begin(r < before ? 1 : 0) {
            first = begin * d + r - before;
            end = first < plane ? begin + (plane - 1 - first) / d + 1 : begin;
        }
        index_t count() const { return end - begin; }
    };

    /// Returns the parts, which are written to `parts` unless they are the planes themselves.
    template <class T>
    const T* put_apart(index_t images, index_t channels, const T* planes, T* parts) const {
        if (count() == 1) return planes;
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
        return parts;
    }

    /// Where the parts are to be made for the way back, put_together.
    template <class T>
    T* place(T* planes, T* parts) const {
        return count() == 1 ? planes : parts;
    }
    template <class T>
    void put_together(index_t images, index_t channels, const T* parts, T* planes) const {
        if (count() == 1) return;
        const TypedKernels<T>& kernel = kernels_of<T>();
        const bool by_rows = as_channels && d.w > 4;  // pieces of a row are quicker than one element here and there
        parallel_for(images * channels, plane_ns(), [&](index_t i) {
            for (index_t y = 0; by_rows && y < plane.h; ++y) {
                const T* const of_row = parts + (i * count() + y % d.h * d.w) * part_size() + y / d.h * part.w;
                kernel.pack_transposed(of_row, part_size(), d.w, part.w, planes + i * plane_size() + y * plane.w, d.w,
                                       d.w);
            }
            if (by_rows) return;
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
        const index_t first = as_channels ? i * count() : i / channels * count() * channels + i % channels;
        const index_t step = as_channels ? 1 : channels;
        index_t of_part = first * part_size();
        for (index_t r = 0; r < d.h; ++r) {
            const Run v(d.h, before.h, r, plane.h);
            for (index_t q = 0; q < d.w; ++q, of_part += step * part_size()) {
                const Run h(d.w, before.w, q, plane.w);
                body(i * plane_size() + v.first * plane.w + h.first, of_part, v, h);
            }
        }
    }
};

/// Whether windows tile the image.
bool tiles_image(const ConvShape& s) {
    const bool side_by_side = s.stride.h == s.kh && s.stride.w == s.kw && s.h == s.oh * s.kh && s.w == s.ow * s.kw;
    return side_by_side && s.pad.top == 0 && s.pad.left == 0 && s.dilation.h == 1 && s.dilation.w == 1;
}

/// What is the same in either direction.
struct Apart {
    Parts x, y;
    ConvShape shape;  // of the parts of one image

    explicit Apart(const ConvShape& s)
        : x(tiles_image(s) ? Parts(s.stride, {0, 0}, {s.h, s.w}, true)
                           : Parts(s.dilation, {s.pad.top % s.dilation.h, s.pad.left % s.dilation.w}, {s.h, s.w})),
          y(s.dilation, {0, 0}, {s.oh, s.ow}),
          shape(s) {
        if (x.as_channels) {
            shape.n = 1;
            shape.c *= x.count();
            shape.kh = shape.kw = 1;
            shape.stride = {1, 1};
        } else {
            shape.n = x.count();
            shape.pad = {s.pad.top / s.dilation.h, 0, s.pad.left / s.dilation.w, 0};
            shape.dilation = {1, 1};
        }
        shape.h = x.part.h, shape.w = x.part.w;
        shape.oh = y.part.h, shape.ow = y.part.w;
    }

    /// How many images to put apart at a time; 0 if one takes too much memory.
    index_t at_a_time(const ConvShape& s) const {
        const index_t weights = s.k * s.cg() * s.kh * s.kw;  // are packed again every time
        return std::max(elements_apart, 2 * weights) / (s.c * x.room() + s.k * y.room());
    }

    /// Calls body(first, some) for some images at a time, from `first` on: by the shape alone, as sums depend on it.
    template <class Body>
    void for_images(const ConvShape& s, const Body& body) const {
        const index_t most = at_a_time(s);
        for (index_t first = 0; first < s.n; first += most) body(first, std::min(most, s.n - first));
    }
    ConvShape of_images(index_t n) const {
        ConvShape s = shape;
        s.n *= n;
        return s;
    }
};

/// Measured: 1.1 to 2.2 times as fast. With fewer channels, or smaller parts, moving takes longer than what it saves.
template <class T>
bool suits_dilated(const ConvShape& s, const Apart& apart) {
    if (s.cg() < 32 || s.kg() < 32) return false;
    const auto suits = [](const Parts& p) {
        return std::min(p.part.h, p.part.w) >= 5 && 2 * p.room() <= 3 * p.plane_size();
    };
    if (!suits(apart.x) || !suits(apart.y)) return false;
    const Correlation<T> correlation = forward_correlation<T>(apart.shape, nullptr, nullptr, nullptr, nullptr);
    const Way way = way_of(correlation, winograd_form(apart.shape, Algorithm::automatic));
    return way == Way::winograd || way == Way::unit;
}

/// Measured: data gradients 1.1 to 3.5 times as fast; the others where a unit for bfloat16 multiplies pixels, 1.2
/// to 1.7 times, but forward only from few channels, which fill its steps badly where they lie.
template <class T>
bool suits_tiled(const ConvShape& s, const Apart& apart, Pass pass) {
    if (apart.shape.cg() < 32 || s.kg() < 32) return false;
    if (pass == Pass::backward_data) return true;
    if (pass == Pass::backward_weight) return weight_suits_1x1<T>(apart.shape);
    const Correlation<T> correlation = forward_correlation<T>(apart.shape, nullptr, nullptr, nullptr, nullptr);
    return s.cg() < 8 && apart.shape.cg() >= 96 && suits_1x1(correlation);
}

}  // namespace

template <class T>
bool suits_apart(const ConvShape& s, Algorithm algorithm, Pass pass) {
    if (algorithm != Algorithm::automatic || s.n == 0) return false;
    const bool strided = s.stride.h > 1 || s.stride.w > 1, dilated = s.dilation.h > 1 || s.dilation.w > 1;
    const bool tiled = strided && tiles_image(s);
    if (!tiled && (strided || !dilated)) return false;
    const Apart apart(s);
    return apart.at_a_time(s) > 0 && (tiled ? suits_tiled<T>(s, apart, pass) : suits_dilated<T>(s, apart));
}

template <class T>
void conv2d_forward_apart(const ConvShape& s, const T* x, const T* weight, const T* bias, bool relu, T* y) {
    const Apart apart(s);
    apart.for_images(s, [&](index_t first, index_t some) {
        Scratch<T> x_parts(some * s.c * apart.x.room()), y_parts(some * s.k * apart.y.room());
        T* const to = y + first * s.k * s.oh * s.ow;
        conv2d_forward(apart.of_images(some), apart.x.put_apart(some, s.c, x + first * s.c * s.h * s.w, x_parts.data()),
                       weight, bias, apart.y.place(to, y_parts.data()), Algorithm::automatic, relu);
        apart.y.put_together(some, s.k, y_parts.data(), to);
    });
}

template <class T>
void conv2d_backward_data_apart(const ConvShape& s, const T* dy, const T* weight, const T* bias, T* dx) {
    const Apart apart(s);
    std::vector<T> biases;  // of the parts' channels
    for (index_t i = 0; bias && i < apart.shape.c; ++i) biases.push_back(bias[i * s.c / apart.shape.c]);
    apart.for_images(s, [&](index_t first, index_t some) {
        Scratch<T> dx_parts(some * s.c * apart.x.room()), dy_parts(some * s.k * apart.y.room());
        conv2d_backward_data(apart.of_images(some),
                             apart.y.put_apart(some, s.k, dy + first * s.k * s.oh * s.ow, dy_parts.data()), weight,
                             dx_parts.data(), Algorithm::automatic, bias ? biases.data() : nullptr);
        apart.x.put_together(some, s.c, dx_parts.data(), dx + first * s.c * s.h * s.w);
    });
}

template <class T>
void conv2d_backward_weight_apart(const ConvShape& s, const T* dy, const T* x, T* dweight, T* dbias) {
    const Apart apart(s);
    apart.for_images(s, [&](index_t first, index_t some) {
        Scratch<T> x_parts(some * s.c * apart.x.room()), dy_parts(some * s.k * apart.y.room());
        const T* const x_from = apart.x.put_apart(some, s.c, x + first * s.c * s.h * s.w, x_parts.data());
        const T* const dy_from = apart.y.put_apart(some, s.k, dy + first * s.k * s.oh * s.ow, dy_parts.data());
        const auto gradients = [&](T* dw, T* db) {
            conv2d_backward_weight(apart.of_images(some), dy_from, x_from, dw, db);
        };
        if (first == 0) {
            gradients(dweight, dbias);
        } else {
            add_gradients(s, dweight, dbias, gradients);
        }
    });
}

template bool suits_apart<float>(const ConvShape&, Algorithm, Pass);
template bool suits_apart<double>(const ConvShape&, Algorithm, Pass);
template void conv2d_forward_apart(const ConvShape&, const float*, const float*, const float*, bool, float*);
template void conv2d_forward_apart(const ConvShape&, const double*, const double*, const double*, bool, double*);
template void conv2d_backward_data_apart(const ConvShape&, const float*, const float*, const float*, float*);
template void conv2d_backward_data_apart(const ConvShape&, const double*, const double*, const double*, double*);
template void conv2d_backward_weight_apart(const ConvShape&, const float*, const float*, float*, float*);
template void conv2d_backward_weight_apart(const ConvShape&, const double*, const double*, double*, double*);

}  // namespace npconv
