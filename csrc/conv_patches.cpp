#include "conv_patches.hpp"

#include <algorithm>
#include <vector>

#include "conv_1x1.hpp"
#include "conv_weight.hpp"
#include "correlation.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t elements_at_a_time = 1 << 21;  // of images whose pixels are dealt to channels

/// Whether windows tile the image.
bool tiles_image(const ConvShape& s) {
    const bool side_by_side = s.stride.h == s.kh && s.stride.w == s.kw && s.h == s.oh * s.kh && s.w == s.ow * s.kw;
    return side_by_side && s.pad.top == 0 && s.pad.left == 0 && !dilated(s);
}

/// The convolution pixel by pixel of so many images.
ConvShape pixel_by_pixel_shape(const ConvShape& s, index_t images) {
    ConvShape shape = s;
    shape.n = images;
    shape.c = s.c * s.kh * s.kw;
    shape.h = s.oh, shape.w = s.ow;
    shape.kh = shape.kw = 1;
    shape.stride = {1, 1};
    return shape;
}

/// Deals the pixels of `images` images to channels: those that meet tap (r, q) to channel (c*kh + r)*kw + q.
template <class T>
void deal_pixels(const ConvShape& s, index_t images, const T* x, T* channels) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t plane = s.h * s.w, size = s.oh * s.ow;
    const T* const end = x + images * s.c * plane;
    parallel_for(images * s.c, static_cast<double>(2 * plane) * element_ns, [&](index_t i) {
        Scratch<T> buffer(size + kernel.lanes);  // more than a channel may be written
        for (index_t tap = 0; tap < s.kh * s.kw; ++tap) {
            const T* const from = x + i * plane + tap / s.kw * s.w + tap % s.kw;
            kernel.copy_rows(from, end, s.kh * s.w, s.kw, s.oh, s.ow, 0, T(0), buffer.data(), s.ow);
            std::copy(buffer.data(), buffer.data() + size, channels + i * plane + tap * size);
        }
    });
}

/// The way back.
template <class T>
void collect_pixels(const ConvShape& s, index_t images, const T* channels, T* x) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t plane = s.h * s.w, size = s.oh * s.ow;
    const bool by_rows = s.kw > 4;  // pieces of a row are quicker than one element here and there
    parallel_for(images * s.c, static_cast<double>(2 * plane) * element_ns, [&](index_t i) {
        const T* const from = channels + i * plane;
        T* const to = x + i * plane;
        for (index_t y = 0; by_rows && y < s.h; ++y) {
            kernel.pack_transposed(from + y % s.kh * s.kw * size + y / s.kh * s.ow, size, s.kw, s.ow, to + y * s.w,
                                   s.kw, s.kw);
        }
        const Segment row{0, 0, static_cast<int>(s.ow)};
        for (index_t tap = 0; !by_rows && tap < s.kh * s.kw; ++tap) {
            kernel.store_columns(from + tap * size, s.ow, s.oh, &row, 1, s.kw, nullptr, false, false,
                                 to + tap / s.kw * s.w + tap % s.kw, s.kh * s.w);
        }
    });
}

/// How many images to deal at a time; 0 if one takes too much memory.
index_t images_at_a_time(const ConvShape& s) {
    const index_t weights = s.k * s.cg() * s.kh * s.kw;  // are packed again every time
    return std::max(elements_at_a_time, 2 * weights) / (s.c * s.h * s.w);
}

/// Calls body(first, some) for some images at a time, from `first` on: by the shape alone, as sums depend on it.
template <class Body>
void for_images(const ConvShape& s, const Body& body) {
    const index_t most = images_at_a_time(s);
    for (index_t first = 0; first < s.n; first += most) body(first, std::min(most, s.n - first));
}

}  // namespace

// Measured: data gradients 1.1 to 3.5 times as fast; the others where a unit for bfloat16 multiplies pixels, 1.2 to 1.7
// times, but forward only from few channels, which fill its steps badly where they lie.
template <class T>
bool suits_patches(const ConvShape& s, Algorithm algorithm, Pass pass) {
    const bool strided = s.stride.h > 1 || s.stride.w > 1;
    if (algorithm != Algorithm::automatic || s.n == 0 || !strided || !tiles_image(s)) return false;
    const ConvShape pixels = pixel_by_pixel_shape(s, 1);
    if (pixels.cg() < 32 || s.kg() < 32 || images_at_a_time(s) == 0) return false;
    if (pass == Pass::backward_data) return true;
    if (pass == Pass::backward_weight) return weight_suits_1x1<T>(pixels);
    const Correlation<T> correlation = forward_correlation<T>(pixels, nullptr, nullptr, nullptr, nullptr);
    return s.cg() < 8 && pixels.cg() >= 96 && suits_1x1(correlation);
}

template <class T>
void conv2d_forward_by_patches(const ConvShape& s, const T* x, const T* weight, const T* bias, bool relu, T* y) {
    for_images(s, [&](index_t first, index_t some) {
        const index_t plane = s.c * s.h * s.w;
        Scratch<T> channels(some * plane);
        deal_pixels(s, some, x + first * plane, channels.data());
        conv2d_forward(pixel_by_pixel_shape(s, some), channels.data(), weight, bias, y + first * s.k * s.oh * s.ow,
                       Algorithm::automatic, relu);
    });
}

template <class T>
void conv2d_backward_data_by_patches(const ConvShape& s, const T* dy, const T* weight, const T* bias, T* dx) {
    std::vector<T> biases;  // of the taps' channels
    for (index_t i = 0; bias && i < s.c * s.kh * s.kw; ++i) biases.push_back(bias[i / (s.kh * s.kw)]);
    for_images(s, [&](index_t first, index_t some) {
        const index_t plane = s.c * s.h * s.w;
        Scratch<T> channels(some * plane);
        conv2d_backward_data(pixel_by_pixel_shape(s, some), dy + first * s.k * s.oh * s.ow, weight, channels.data(),
                             Algorithm::automatic, bias ? biases.data() : nullptr);
        collect_pixels(s, some, channels.data(), dx + first * plane);
    });
}

template <class T>
void conv2d_backward_weight_by_patches(const ConvShape& s, const T* dy, const T* x, T* dweight, T* dbias) {
    for_images(s, [&](index_t first, index_t some) {
        const index_t plane = s.c * s.h * s.w;
        Scratch<T> channels(some * plane);
        deal_pixels(s, some, x + first * plane, channels.data());
        const auto gradients = [&](T* dw, T* db) {
            conv2d_backward_weight(pixel_by_pixel_shape(s, some), dy + first * s.k * s.oh * s.ow, channels.data(), dw,
                                   db);
        };
        if (first == 0) {
            gradients(dweight, dbias);
        } else {
            add_gradients(s, dweight, dbias, gradients);
        }
    });
}

template bool suits_patches<float>(const ConvShape&, Algorithm, Pass);
template bool suits_patches<double>(const ConvShape&, Algorithm, Pass);
template void conv2d_forward_by_patches(const ConvShape&, const float*, const float*, const float*, bool, float*);
template void conv2d_forward_by_patches(const ConvShape&, const double*, const double*, const double*, bool, double*);
template void conv2d_backward_data_by_patches(const ConvShape&, const float*, const float*, const float*, float*);
template void conv2d_backward_data_by_patches(const ConvShape&, const double*, const double*, const double*, double*);
template void conv2d_backward_weight_by_patches(const ConvShape&, const float*, const float*, float*, float*);
template void conv2d_backward_weight_by_patches(const ConvShape&, const double*, const double*, double*, double*);

}  // namespace npconv
