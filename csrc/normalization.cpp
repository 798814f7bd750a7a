#include "normalization.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

constexpr index_t most_channels = 64;  // of a block

/// Calls body(first, last) for blocks of the channels, on any thread. The features of a fully connected layer are
/// channels of one pixel: there many are summed up side by side.
template <class Body>
void for_channels(const ChannelShape& s, Body&& body) {
    const index_t block = s.plane == 1 ? most_channels : 1;
    const double block_ns = static_cast<double>(s.n * s.plane * block) * element_ns / 2;
    parallel_for(ceil_div(s.c, block), block_ns, [&](index_t i) { body(i * block, std::min((i + 1) * block, s.c)); });
}

/// The sum of each of the channels: of run(offset), the sum of a plane, or, where planes are single pixels, of
/// pixel(offset, channel).
template <class T, class Run, class Pixel>
void sum_channels(const ChannelShape& s, index_t first, index_t last, Run&& run, Pixel&& pixel, double* sums) {
    const index_t count = last - first;
    std::fill(sums, sums + count, 0.0);
    if (s.plane > 1) {
        for (index_t n = 0; n < s.n; ++n) sums[0] += run((n * s.c + first) * s.plane);
        return;
    }
    constexpr index_t rows = 32;  // summed up in the precision of T
    for (index_t n = 0; n < s.n; n += rows) {
        T partial[most_channels] = {};
        for (index_t row = n; row < std::min(n + rows, s.n); ++row) {
            for (index_t j = 0; j < count; ++j) partial[j] += pixel(row * s.c + first + j, first + j);
        }
        for (index_t j = 0; j < count; ++j) sums[j] += static_cast<double>(partial[j]);
    }
}

template <class T>
T inverse_deviation(T var, double epsilon) {
    return static_cast<T>(1 / std::sqrt(static_cast<double>(var) + epsilon));
}

}  // namespace

template <class T>
void batch_moments(const ChannelShape& s, const T* x, T* mean, T* var) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const double count = static_cast<double>(std::max<index_t>(s.n * s.plane, 1));
    for_channels(s, [&](index_t first, index_t last) {
        double sums[most_channels];
        sum_channels<T>(
            s, first, last, [&](index_t at) { return kernel.sum(x + at, s.plane); },
            [&](index_t at, index_t) { return x[at]; }, sums);
        for (index_t c = first; c < last; ++c) mean[c] = static_cast<T>(sums[c - first] / count);
        sum_channels<T>(
            s, first, last, [&](index_t at) { return kernel.sum_of_squares(x + at, mean[first], s.plane); },
            [&](index_t at, index_t c) { return (x[at] - mean[c]) * (x[at] - mean[c]); }, sums);
        for (index_t c = first; c < last; ++c) var[c] = static_cast<T>(sums[c - first] / count);
    });
}

template <class T>
void batch_norm_forward(const ChannelShape& s, const T* x, const T* mean, const T* var, const T* weight, const T* bias,
                        double epsilon, T* y) {
    for_channels(s, [&](index_t first, index_t last) {
        T scale[most_channels], shift[most_channels];
        for (index_t c = first; c < last; ++c) {
            scale[c - first] = inverse_deviation(var[c], epsilon) * (weight ? weight[c] : T(1));
            shift[c - first] = bias ? bias[c] : T(0);
        }
        for (index_t n = 0; n < s.n; ++n) {
            const index_t at = (n * s.c + first) * s.plane;
            if (s.plane == 1) {
                for (index_t i = 0; i < last - first; ++i) {
                    y[at + i] = (x[at + i] - mean[first + i]) * scale[i] + shift[i];
                }
            } else {
                kernels_of<T>().scale_and_shift(x + at, mean[first], scale[0], shift[0], y + at, s.plane);
            }
        }
    });
}

template <class T>
void batch_norm_backward(const ChannelShape& s, const T* dy, const T* x, const T* mean, const T* var, const T* weight,
                         double epsilon, bool training, T* dx, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const double count = static_cast<double>(std::max<index_t>(s.n * s.plane, 1));
    for_channels(s, [&](index_t first, index_t last) {
        double sums[most_channels], products[most_channels];
        sum_channels<T>(
            s, first, last, [&](index_t at) { return kernel.sum(dy + at, s.plane); },
            [&](index_t at, index_t) { return dy[at]; }, sums);
        sum_channels<T>(
            s, first, last, [&](index_t at) { return kernel.sum_of_products(dy + at, x + at, mean[first], s.plane); },
            [&](index_t at, index_t c) { return dy[at] * (x[at] - mean[c]); }, products);
        // dx = a*dy + b*(x - mean) + d: in training, what the mean and the variance carry away is constant over the
        // batch, and proportional to x - mean.
        T a[most_channels], b[most_channels], d[most_channels];
        for (index_t c = first; c < last; ++c) {
            const index_t j = c - first;
            const auto inverse = static_cast<double>(inverse_deviation(var[c], epsilon));
            const double scale = inverse * (weight ? static_cast<double>(weight[c]) : 1.0);
            dweight[c] = static_cast<T>(products[j] * inverse);
            dbias[c] = static_cast<T>(sums[j]);
            a[j] = static_cast<T>(scale);
            b[j] = training ? static_cast<T>(-scale * inverse * inverse * products[j] / count) : T(0);
            d[j] = training ? static_cast<T>(-scale * sums[j] / count) : T(0);
        }
        for (index_t n = 0; dx && n < s.n; ++n) {
            const index_t at = (n * s.c + first) * s.plane;
            if (s.plane == 1) {
                for (index_t i = 0; i < last - first; ++i) {
                    dx[at + i] = a[i] * dy[at + i] + b[i] * (x[at + i] - mean[first + i]) + d[i];
                }
            } else {
                const T factors[] = {a[0], b[0], d[0]};
                kernel.normalization_gradient(dy + at, x + at, mean[first], factors, dx + at, s.plane);
            }
        }
    });
}

namespace {

/// A block of pixels of one image, through all channels, that stays in the cache.
constexpr index_t response_elements = 1 << 14;

struct Neighbours {
    std::vector<index_t> begin, end;

    /// The channels that channel c looks at, or, `reversed`, those that look at it.
    Neighbours(index_t channels, index_t size, bool reversed) {
        const index_t before = reversed ? (size - 1) / 2 : size / 2, after = size - before;
        for (index_t c = 0; c < channels; ++c) {
            begin.push_back(std::max<index_t>(c - before, 0));
            end.push_back(std::min(c + after, channels));
        }
    }
};

/// d^-beta; the usual exponents without the power function, which would take most of the time.
template <class T>
void negative_power(const T* d, T beta, index_t n, T* result) {
    if (beta == T(0.75)) {
        for (index_t i = 0; i < n; ++i) {
            const T root = std::sqrt(d[i]);
            result[i] = 1 / (root * std::sqrt(root));
        }
    } else if (beta == T(0.5)) {
        for (index_t i = 0; i < n; ++i) result[i] = 1 / std::sqrt(d[i]);
    } else if (beta == T(1)) {
        for (index_t i = 0; i < n; ++i) result[i] = 1 / d[i];
    } else {
        for (index_t i = 0; i < n; ++i) result[i] = std::pow(d[i], -beta);
    }
}

/// Calls body(from, width) for blocks of `width` pixels of an image, through all channels, `from` in its channel 0.
template <class Body>
void for_pixel_blocks(const ChannelShape& s, Body&& body) {
    const index_t width = std::clamp<index_t>(response_elements / s.c / 16 * 16, 16, std::max<index_t>(s.plane, 16));
    const index_t blocks = ceil_div(s.plane, width);
    parallel_for(s.n * blocks, static_cast<double>(s.c * width) * 4 * element_ns, [&](index_t task) {
        const index_t first = task % blocks * width;
        body(task / blocks * s.c * s.plane + first, std::min(width, s.plane - first));
    });
}

/// d of a block, [channel][width], from x*x in `squares`, which is made first.
template <class T>
void response_divisors(const ChannelShape& s, const ResponseNorm& norm, const Neighbours& seen, const T* x,
                       index_t width, T* squares, T* d) {
    for (index_t c = 0; c < s.c; ++c) {
        for (index_t i = 0; i < width; ++i) squares[c * width + i] = x[c * s.plane + i] * x[c * s.plane + i];
    }
    kernels_of<T>().sum_rows(s.c, squares, width, seen.begin.data(), seen.end.data(), nullptr, d, width);
    const T scale = static_cast<T>(norm.alpha / static_cast<double>(norm.size)), k = static_cast<T>(norm.k);
    for (index_t i = 0; i < s.c * width; ++i) d[i] = k + scale * d[i];
}

}  // namespace

template <class T>
void local_response_norm_forward(const ChannelShape& s, const ResponseNorm& norm, const T* x, T* y) {
    const Neighbours seen(s.c, norm.size, false);
    for_pixel_blocks(s, [&](index_t from, index_t width) {
        Scratch<T> squares(s.c * width), d(s.c * width);
        response_divisors(s, norm, seen, x + from, width, squares.data(), d.data());
        T* const factor = squares.data();
        negative_power(d.data(), static_cast<T>(norm.beta), s.c * width, factor);
        for (index_t c = 0; c < s.c; ++c) {
            const T* const in = x + from + c * s.plane;
            T* const out = y + from + c * s.plane;
            for (index_t i = 0; i < width; ++i) out[i] = in[i] * factor[c * width + i];
        }
    });
}

template <class T>
void local_response_norm_backward(const ChannelShape& s, const ResponseNorm& norm, const T* dy, const T* x, const T* y,
                                  T* dx) {
    const Neighbours seen(s.c, norm.size, false), seers(s.c, norm.size, true);
    const T scale = static_cast<T>(2 * norm.alpha * norm.beta / static_cast<double>(norm.size));
    for_pixel_blocks(s, [&](index_t from, index_t width) {
        Scratch<T> squares(s.c * width), d(s.c * width), factor(s.c * width);
        response_divisors(s, norm, seen, x + from, width, squares.data(), d.data());
        negative_power(d.data(), static_cast<T>(norm.beta), s.c * width, factor.data());
        T* const ratios = squares.data();
        for (index_t c = 0; c < s.c; ++c) {
            const index_t at = from + c * s.plane;
            for (index_t i = 0; i < width; ++i) {
                ratios[c * width + i] = dy[at + i] * y[at + i] / d.data()[c * width + i];
            }
        }
        T* const sums = d.data();
        kernels_of<T>().sum_rows(s.c, ratios, width, seers.begin.data(), seers.end.data(), nullptr, sums, width);
        for (index_t c = 0; c < s.c; ++c) {
            const index_t at = from + c * s.plane, row = c * width;
            for (index_t i = 0; i < width; ++i) {
                dx[at + i] = dy[at + i] * factor.data()[row + i] - scale * x[at + i] * sums[row + i];
            }
        }
    });
}

template void batch_moments(const ChannelShape&, const float*, float*, float*);
template void batch_moments(const ChannelShape&, const double*, double*, double*);
template void batch_norm_forward(const ChannelShape&, const float*, const float*, const float*, const float*,
                                 const float*, double, float*);
template void batch_norm_forward(const ChannelShape&, const double*, const double*, const double*, const double*,
                                 const double*, double, double*);
template void batch_norm_backward(const ChannelShape&, const float*, const float*, const float*, const float*,
                                  const float*, double, bool, float*, float*, float*);
template void batch_norm_backward(const ChannelShape&, const double*, const double*, const double*, const double*,
                                  const double*, double, bool, double*, double*, double*);
template void local_response_norm_forward(const ChannelShape&, const ResponseNorm&, const float*, float*);
template void local_response_norm_forward(const ChannelShape&, const ResponseNorm&, const double*, double*);
template void local_response_norm_backward(const ChannelShape&, const ResponseNorm&, const float*, const float*,
                                           const float*, float*);
template void local_response_norm_backward(const ChannelShape&, const ResponseNorm&, const double*, const double*,
                                           const double*, double*);

}  // namespace npconv
