#include "normalization.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

/// The features of a fully connected layer are channels of one pixel: there the sums of many channels run side by side.
constexpr index_t columns_block = 64;

/// Calls body(first, last) for blocks of the channels, on any thread.
template <class Body>
void for_channels(const ChannelShape& s, index_t block, Body&& body) {
    const double block_ns = static_cast<double>(s.n * s.plane * block) * element_ns / 2;
    parallel_for(ceil_div(s.c, block), block_ns, [&](index_t i) { body(i * block, std::min((i + 1) * block, s.c)); });
}

/// Sums of a channel over images and pixels, of term(run of x, its length), or, where planes are single pixels, of
/// term_of_pixel(element).
template <class T, class Run, class Pixel>
void sums_of_channels(const ChannelShape& s, index_t first, index_t last, Run&& run, Pixel&& pixel, double* sums) {
    std::fill(sums, sums + (last - first), 0.0);
    if (s.plane == 1) {
        for (index_t n = 0; n < s.n; ++n) {
            for (index_t c = first; c < last; ++c) sums[c - first] += pixel(n * s.c + c, c);
        }
        return;
    }
    for (index_t c = first; c < last; ++c) {
        for (index_t n = 0; n < s.n; ++n) sums[c - first] += run((n * s.c + c) * s.plane, c);
    }
}

/// Calls body(offset, length, channel) for the runs of the channels [first, last).
template <class Body>
void for_runs(const ChannelShape& s, index_t first, index_t last, Body&& body) {
    for (index_t n = 0; n < s.n; ++n) {
        for (index_t c = first; c < last; ++c) body((n * s.c + c) * s.plane, c);
    }
}

index_t block_of(const ChannelShape& s) { return s.plane == 1 ? columns_block : 1; }

template <class T>
T inverse_deviation(T var, double epsilon) {
    return static_cast<T>(1 / std::sqrt(static_cast<double>(var) + epsilon));
}

}  // namespace

template <class T>
void batch_moments(const ChannelShape& s, const T* x, T* mean, T* var) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const double count = static_cast<double>(std::max<index_t>(s.n * s.plane, 1));
    for_channels(s, block_of(s), [&](index_t first, index_t last) {
        double sums[columns_block];
        sums_of_channels<T>(
            s, first, last, [&](index_t at, index_t) { return kernel.sum(x + at, s.plane); },
            [&](index_t at, index_t) { return static_cast<double>(x[at]); }, sums);
        for (index_t c = first; c < last; ++c) mean[c] = static_cast<T>(sums[c - first] / count);
        sums_of_channels<T>(
            s, first, last, [&](index_t at, index_t c) { return kernel.sum_of_squares(x + at, mean[c], s.plane); },
            [&](index_t at, index_t c) {
                const double centred = static_cast<double>(x[at]) - static_cast<double>(mean[c]);
                return centred * centred;
            },
            sums);
        for (index_t c = first; c < last; ++c) var[c] = static_cast<T>(sums[c - first] / count);
    });
}

template <class T>
void batch_norm_forward(const ChannelShape& s, const T* x, const T* mean, const T* var, const T* weight, const T* bias,
                        double epsilon, T* y) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    for_channels(s, block_of(s), [&](index_t first, index_t last) {
        T scale[columns_block], shift[columns_block];
        for (index_t c = first; c < last; ++c) {
            scale[c - first] = inverse_deviation(var[c], epsilon) * (weight ? weight[c] : T(1));
            shift[c - first] = bias ? bias[c] : T(0);
        }
        for_runs(s, first, last, [&](index_t at, index_t c) {
            const index_t i = c - first;
            if (s.plane == 1) {
                y[at] = (x[at] - mean[c]) * scale[i] + shift[i];
            } else {
                kernel.scale_and_shift(x + at, mean[c], scale[i], shift[i], y + at, s.plane);
            }
        });
    });
}

template <class T>
void batch_norm_backward(const ChannelShape& s, const T* dy, const T* x, const T* mean, const T* var, const T* weight,
                         double epsilon, bool training, T* dx, T* dweight, T* dbias) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const double count = static_cast<double>(std::max<index_t>(s.n * s.plane, 1));
    for_channels(s, block_of(s), [&](index_t first, index_t last) {
        double sums[columns_block], products[columns_block];
        sums_of_channels<T>(
            s, first, last, [&](index_t at, index_t) { return kernel.sum(dy + at, s.plane); },
            [&](index_t at, index_t) { return static_cast<double>(dy[at]); }, sums);
        sums_of_channels<T>(
            s, first, last,
            [&](index_t at, index_t c) { return kernel.sum_of_products(dy + at, x + at, mean[c], s.plane); },
            [&](index_t at, index_t c) {
                return static_cast<double>(dy[at]) * (static_cast<double>(x[at]) - static_cast<double>(mean[c]));
            },
            products);
        // dx = factor[0]*dy + factor[1]*(x - mean) + factor[2]: in training what the mean and the variance carry away
        // is constant over the batch, and proportional to x - mean.
        T factors[columns_block][3];
        for (index_t c = first; c < last; ++c) {
            const index_t i = c - first;
            const auto inverse = static_cast<double>(inverse_deviation(var[c], epsilon));
            const double scale = inverse * (weight ? static_cast<double>(weight[c]) : 1.0);
            dweight[c] = static_cast<T>(products[i] * inverse);
            dbias[c] = static_cast<T>(sums[i]);
            factors[i][0] = static_cast<T>(scale);
            factors[i][1] = training ? static_cast<T>(-scale * inverse * inverse * products[i] / count) : T(0);
            factors[i][2] = training ? static_cast<T>(-scale * sums[i] / count) : T(0);
        }
        if (!dx) return;
        for_runs(s, first, last, [&](index_t at, index_t c) {
            const T* const f = factors[c - first];
            if (s.plane == 1) {
                dx[at] = f[0] * dy[at] + f[1] * (x[at] - mean[c]) + f[2];
            } else {
                kernel.normalization_gradient(dy + at, x + at, mean[c], f, dx + at, s.plane);
            }
        });
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
    kernels_of<T>().sum_rows(s.c, squares, width, seen.begin.data(), seen.end.data(), d, width);
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
        kernels_of<T>().sum_rows(s.c, ratios, width, seers.begin.data(), seers.end.data(), sums, width);
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
