#include "conv_phases.hpp"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

/// The convolution of the phases: channel (c*s + r)*s + q of its images has the pixels (s*y + r - pad, s*x + q - pad)
/// of channel c, without padding and no more than the taps reach.
ConvShape shape_of_phases(const ConvShape& s) {
    const index_t stride = s.stride.h;
    ConvShape phases = s;
    phases.c = s.c * stride * stride;
    phases.kh = phases.kw = ceil_div(s.kh, stride);
    phases.stride = {1, 1};
    phases.pad = {0, 0, 0, 0};
    phases.h = s.oh + phases.kh - 1;
    phases.w = s.ow + phases.kw - 1;
    return phases;
}

/// to[i*step_to + j] = from[i*step_from + j] for j < length.
template <class T>
void copy_runs(index_t count, index_t length, const T* from, index_t step_from, T* to, index_t step_to) {
    const auto copy = [=](auto known_length) {
        const index_t n = known_length > 0 ? known_length : length;
        for (index_t i = 0; i < count; ++i) {
            for (index_t j = 0; j < n; ++j) to[i * step_to + j] = from[i * step_from + j];
        }
    };
    switch (length) {
        case 2:
            return copy(std::integral_constant<index_t, 2>());
        case 4:
            return copy(std::integral_constant<index_t, 4>());
        default:
            return copy(std::integral_constant<index_t, 0>());
    }
}

/// How many pixels of an axis some tap may meet; those behind them have no window.
index_t met(index_t size, index_t out, index_t kernel, index_t stride, index_t pad) {
    return std::min((out - 1) * stride + kernel - pad, size);
}
index_t met_rows(const ConvShape& s) { return met(s.h, s.oh, s.kh, s.stride.h, s.pad.top); }
index_t met_columns(const ConvShape& s) { return met(s.w, s.ow, s.kw, s.stride.w, s.pad.left); }

/// Goes through the pixels of the images that are met, as [pixel][nr] of `count` channels of the phases from `channel`
/// on, in a strip's columns [col, col + width). Calls body(pixels, length, at, place) for `length` channels of some
/// pixels in a row: those of the first are side by side from x[at] on in the images and packed[place] on, those of each
/// further one `stride` and nr places behind.
template <class Body>
void for_runs(const ConvShape& s, const Strip& strip, index_t col, index_t width, index_t channel, index_t count,
              index_t nr, const Body& body) {
    const index_t stride = s.stride.h, end = col + width, rows = met_rows(s), columns = met_columns(s);
    for (index_t row = 0; row < strip.rows; ++row) {
        for (index_t j = 0, length; j < count; j += length) {
            const index_t phase = channel + j, q = phase % stride, r = phase / stride % stride;
            length = std::min(stride - q, count - j);  // the channels of this row of the image
            const index_t y = (strip.row + row) * stride + r - s.pad.top, x = q - s.pad.left;
            if (y < 0 || y >= rows) continue;
            const index_t at = ((strip.image * s.c + phase / stride / stride) * s.h + y) * s.w + x;
            const index_t place = (row * width - col) * nr + j;
            // All channels of the pixels [left, right) are met, and some of one pixel on either side.
            const index_t left = std::clamp(ceil_div(std::max<index_t>(-x, 0), stride), col, end);
            const index_t right = std::clamp(floor_div(columns - length - x, stride) + 1, left, end);
            if (left < right) body(right - left, length, at + left * stride, place + left * nr);
            for (const index_t i : {left - 1, right}) {
                const index_t first = std::max<index_t>(-x - i * stride, 0);
                const index_t some = std::min(columns - x - i * stride, length) - first;
                if (i >= col && i < end && some > 0) body(1, some, at + i * stride + first, place + i * nr + first);
            }
        }
    }
}

/// The phases of the images x.
template <class T>
PackPixels<T> phases_of(const ConvShape& s, const T* x) {
    return [=](const Strip& strip, index_t col, index_t width, index_t channel, index_t channels, T* packed) {
        const index_t nr = kernels_of<T>().nr;
        std::fill(packed, packed + strip.rows * width * nr, T(0));
        for_runs(s, strip, col, width, channel, channels, nr,
                 [&](index_t pixels, index_t length, index_t at, index_t place) {
                     copy_runs(pixels, length, x + at, s.stride.h, packed + place, nr);
                 });
    };
}

/// The weights of the phases: those of the kernel, and zeros.
template <class T>
class PhaseWeights {
   public:
    explicit PhaseWeights(const ConvShape& s) : filters_(s.k), channels_(s.cg()), weights_(s.k * s.cg() * size_of(s)) {
        const index_t stride = s.stride.h, taps = ceil_div(s.kh, stride);
        size_ = size_of(s);
        for (index_t v = 0; v < s.kh; ++v) {
            for (index_t h = 0; h < s.kw; ++h) {
                places_.push_back(((v % stride * stride + h % stride) * taps + v / stride) * taps + h / stride);
            }
        }
    }
    T* data() { return weights_.data(); }
    void take(const T* weight) {
        weights_.clear();
        for_all([&](index_t i, index_t place) { weights_[place] = weight[i]; });
    }
    void give(T* dweight) {
        for_all([&](index_t i, index_t place) { dweight[i] = weights_[place]; });
    }

   private:
    static index_t size_of(const ConvShape& s) {
        const index_t padded = ceil_div(s.kh, s.stride.h) * s.stride.h;
        return padded * padded;
    }
    template <class Body>
    void for_all(const Body& body) {
        const auto taps = static_cast<index_t>(places_.size());
        parallel_for(filters_, static_cast<double>(channels_ * size_) * element_ns, [&](index_t filter) {
            for (index_t i = filter * channels_; i < (filter + 1) * channels_; ++i) {
                for (index_t tap = 0; tap < taps; ++tap) body(i * taps + tap, i * size_ + places_[std::size_t(tap)]);
            }
        });
    }
    index_t filters_, channels_, size_;
    std::vector<index_t> places_;  // of a kernel's weights among those of its phases
    Scratch<T> weights_;
};

}  // namespace

template <class T>
void conv2d_forward_by_phases(const ConvShape& s, const WinogradForm& form, const T* x, const T* weight, const T* bias,
                              bool relu, T* y) {
    PhaseWeights<T> weights(s);
    weights.take(weight);
    Correlation<T> c = forward_correlation<T>(shape_of_phases(s), nullptr, weights.data(), bias, y);
    c.relu = relu;
    winograd_correlate(c, form, phases_of(s, x), results_of(c));
}

template <class T>
void conv2d_backward_data_by_phases(const ConvShape& s, const WinogradForm& form, const T* dy, const T* weight,
                                    const T* bias, T* dx) {
    const ConvShape phases = shape_of_phases(s);
    const index_t nr = kernels_of<T>().nr, of_channel = s.stride.h * s.stride.w;
    PhaseWeights<T> weights(s);
    weights.take(weight);
    std::vector<T> biases;
    for (index_t i = 0; bias && i < phases.c; ++i) biases.push_back(bias[i / of_channel]);
    if (met_rows(s) < s.h || met_columns(s) < s.w) fill_planes(s.n, s.c, s.h * s.w, bias, dx);
    const Axis v = backward_axis(phases.h, phases.oh, phases.kh, 1, 1, 0, 0);
    const Axis h = backward_axis(phases.w, phases.ow, phases.kw, 1, 1, 0, 0);
    const Correlation<T> c =
        backward_correlation<T>(phases, v, h, nullptr, weights.data(), bias ? biases.data() : nullptr, nullptr);
    winograd_correlate<T>(
        c, form, pixels_of(dy, s.k, s.oh, s.ow),
        [&](const Strip& strip, index_t col, index_t width, index_t channel, index_t channels, const T* pixels) {
            for_runs(s, strip, col, width, channel, channels, nr,
                     [&](index_t count, index_t length, index_t at, index_t place) {
                         copy_runs(count, length, pixels + place, nr, dx + at, s.stride.h);
                     });
        });
}

template <class T>
void conv2d_backward_weight_by_phases(const ConvShape& s, const WinogradForm& form, const PackPixels<T>& dy, const T* x,
                                      T* dweight, T* dbias) {
    PhaseWeights<T> weights(s);
    winograd_backward_weight(shape_of_phases(s), form, dy, phases_of(s, x), weights.data(), dbias);
    weights.give(dweight);
}

template void conv2d_forward_by_phases(const ConvShape&, const WinogradForm&, const float*, const float*, const float*,
                                       bool, float*);
template void conv2d_forward_by_phases(const ConvShape&, const WinogradForm&, const double*, const double*,
                                       const double*, bool, double*);
template void conv2d_backward_data_by_phases(const ConvShape&, const WinogradForm&, const float*, const float*,
                                             const float*, float*);
template void conv2d_backward_data_by_phases(const ConvShape&, const WinogradForm&, const double*, const double*,
                                             const double*, double*);
template void conv2d_backward_weight_by_phases(const ConvShape&, const WinogradForm&, const PackPixels<float>&,
                                               const float*, float*, float*);
template void conv2d_backward_weight_by_phases(const ConvShape&, const WinogradForm&, const PackPixels<double>&,
                                               const double*, double*, double*);

}  // namespace npconv
