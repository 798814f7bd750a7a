// Which form of Winograd's algorithm is expected to be the fastest for a shape, if any.
#include "winograd.hpp"

#include <algorithm>

namespace npconv {
namespace {

// The tiles of all phases stand together in a row, and what they hold should stay in the cache.
constexpr index_t most_dilation = 32;

/// What the cost of a product and of the transforms depends on.
struct Work {
    index_t taps;  // along each axis
    index_t stride, out_h, out_w, in_channels, out_channels;
    double multiplications;  // of the direct product, for an output and an input channel
    double splitting = 0;    // what getting at the pixels costs more, for an output and an input channel
    Pair dilation = {1, 1};
};

/// The form for 3x3 kernels of stride 1 that was asked for, or the one that is expected to be the fastest: none, or
/// that for which the cost of all elements of all tiles is less than `direct_cost`.
const WinogradForm* choose_form(const Work& work, Algorithm algorithm, double direct_cost, double element_cost) {
    if (algorithm == Algorithm::gemm) return nullptr;
    const bool automatic = algorithm == Algorithm::automatic;
    // Fewer would leave much of the vectors empty; and small examples with whole numbers stay exact.
    if (automatic && (work.in_channels < 12 || work.out_channels < 16)) return nullptr;
    const WinogradForm* best = nullptr;
    for (const WinogradForm& form : winograd_forms) {
        if (work.taps != form.kernel || work.stride != form.stride) continue;
        if (!automatic) {
            const bool wanted = form.tile == (algorithm == Algorithm::winograd2 ? 2 : 4);
            if (wanted && form.kernel == 3 && form.stride == 1) return &form;
            continue;
        }
        const index_t elements = form.size() * form.size(), outputs = form.tile * form.tile;
        const bool saves_little =
            2 * static_cast<double>(outputs) * work.multiplications < 3 * static_cast<double>(elements);
        // Little is lost again to what else there is to do: to split pixels, or to fetch the weights.
        const bool much_else = work.splitting > 0 || elements * work.in_channels * work.out_channels > many_weights;
        if (saves_little && much_else) continue;
        const Pair d = work.dilation;
        const index_t tiles =
            d.h * tiles_of_phase(work.out_h, d.h, form.tile) * d.w * tiles_of_phase(work.out_w, d.w, form.tile);
        // 7x7 elements do not fit the registers; the matrices of stride 2 are simpler.
        const double size_cost = form.stride == 1 && form.size() > 6 ? 1.15 : 1;
        const double cost = static_cast<double>(tiles * elements) * element_cost * size_cost +
                            static_cast<double>(work.out_h * work.out_w * work.in_channels) * work.splitting;
        if (cost < direct_cost) {
            direct_cost = cost;
            best = &form;
        }
    }
    return best;
}

/// The cost of an element: a product of all channels, and transforms of them in whole vectors.
double element_cost(const Work& work, double product, double transforms, double rest) {
    const auto whole = [](index_t channels) { return static_cast<double>(ceil_div(channels, 16) * 16); };
    const double in = whole(work.in_channels), out = whole(work.out_channels);
    return product * in * out + transforms * (in + out) + rest;
}

// Measured with 3 to 64 channels, kernels of 3x3 to 11x11 and strides of 2 and 4. Joining the phases of a data gradient
// costs no more than its direct way, which is a correlation for each of them.
constexpr double splitting = 50;

/// Of the convolution as a whole; no taps where no form serves.
Work work_of(const ConvShape& s) {
    const bool square = s.kh == s.kw && s.stride.h == s.stride.w;
    const bool spaced = s.stride.h == 1 && std::max(s.dilation.h, s.dilation.w) <= most_dilation;
    const bool serves = square && (spaced || !dilated(s));
    return {serves ? s.kh : 0,          s.stride.h, s.oh, s.ow, s.cg(), s.kg(), static_cast<double>(s.kh * s.kw),
            dilated(s) ? splitting : 0, s.dilation};
}

/// Of the convolution of its phases (conv_phases.hpp); no taps where there is one phase, or where each has one tap, or
/// where images are too small for the weights to be worth transforming.
Work work_of_phases(const ConvShape& s, double splitting) {
    const Work work = work_of(s);
    const index_t taps = ceil_div(work.taps, work.stride);
    if (work.stride == 1 || taps <= 1 || work.out_h * work.out_w < 100) return {0, 1, 0, 0, 0, 0, 0};
    const index_t phases = work.stride * work.stride;
    return {taps,
            1,
            work.out_h,
            work.out_w,
            work.in_channels * phases,
            work.out_channels,
            work.multiplications / static_cast<double>(phases),
            splitting};
}

// Predicted from the shape of an image and the channels alone, so that a result depends neither on the batch around it
// nor on the threads. The unit is a multiply-add at full speed. Measured with AVX-512, 3 to 64 channels and images of 7
// to 112 pixels: a step of the direct product costs 9 more for packing, and the ends of rows cost 10000 a row. Of 2x2
// taps nearly nothing is packed.
double direct_cost(const Work& work) {
    const auto pixels = static_cast<double>(work.out_h * work.out_w);
    const auto steps = static_cast<double>(work.taps * work.taps * work.in_channels);
    return pixels * steps * ((work.taps == 2 ? 0.9 : 1.5) * static_cast<double>(work.out_channels) + 9) +
           10000 * static_cast<double>(work.out_h);
}

const WinogradForm* form_for(const Work& work, Algorithm algorithm, double direct) {
    return choose_form(work, algorithm, direct, element_cost(work, 1.1, 22, 600));
}

// The weight gradient transforms what goes in, but its result only once: it is worth it sooner.
double direct_weight_cost(const Work& work) {
    const auto pixels = static_cast<double>(work.out_h * work.out_w);
    const auto steps = static_cast<double>(work.taps * work.taps * work.in_channels);
    return pixels * steps * static_cast<double>(ceil_div(work.out_channels, 16) * 16) / 0.45;
}

const WinogradForm* weight_form_for(const Work& work, Algorithm algorithm, double direct) {
    return choose_form(work, algorithm, direct, element_cost(work, 1.15, 20, 300));
}

/// Whether winograd_1d makes height x width results sooner than the direct product. Measured with 1 to 24 channels that
/// go in, 4 to 128 that come out, and images of 7 to 112 pixels.
bool suits_columns(const Work& work, Algorithm algorithm, index_t height, index_t width, index_t in_channels,
                   index_t out_channels) {
    if (algorithm != Algorithm::automatic || work.taps != winograd_1d.kernel || work.stride != 1) return false;
    // Small examples with whole numbers stay exact; of more channels, the transforms are as dear as what they save.
    const bool channels = in_channels <= 16 && out_channels >= 8;
    const index_t computed = ceil_div(height, winograd_1d.tile) * winograd_1d.tile * ceil_div(width, 16) * 16;
    const bool full = 5 * computed <= 6 * height * width;  // little of the tiles and vectors lies beyond the image
    return channels && full && work.dilation.h == 1 && work.dilation.w == 1;
}

}  // namespace

const WinogradForm* winograd_form(const ConvShape& s, Algorithm algorithm) {
    const Work work = work_of(s);
    const WinogradForm* const form = form_for(work, algorithm, direct_cost(work));
    return !form && suits_columns(work, algorithm, s.oh, s.ow, s.cg(), s.kg()) ? &winograd_1d : form;
}

const WinogradForm* winograd_data_form(const ConvShape& s, Algorithm algorithm) {
    const Work work = work_of(s);
    const WinogradForm* const form = form_for(work, algorithm, direct_cost(work));
    return !form && suits_columns(work, algorithm, s.h, s.w, s.kg(), s.cg()) ? &winograd_1d : form;
}

const WinogradForm* winograd_form(const ConvShape& s, const Axis& v, const Axis& h, Algorithm algorithm) {
    const bool square = !dilated(s) && v.taps.size() == h.taps.size();
    const auto taps = static_cast<index_t>(v.taps.size());
    const Work work{square ? taps : 0, 1, v.out, h.out, s.kg(), s.cg(), static_cast<double>(taps * taps)};
    return form_for(work, algorithm, direct_cost(work));
}

const WinogradForm* winograd_weight_form(const ConvShape& s, Algorithm algorithm) {
    const Work work = work_of(s);
    return weight_form_for(work, algorithm, direct_weight_cost(work));
}

const WinogradForm* winograd_form_of_phases(const ConvShape& s, Algorithm algorithm) {
    return form_for(work_of_phases(s, splitting), algorithm, direct_cost(work_of(s)));
}

const WinogradForm* winograd_data_form_of_phases(const ConvShape& s, Algorithm algorithm) {
    return form_for(work_of_phases(s, 0), algorithm, direct_cost(work_of(s)));
}

const WinogradForm* winograd_weight_form_of_phases(const ConvShape& s, Algorithm algorithm) {
    return weight_form_for(work_of_phases(s, splitting), algorithm, direct_weight_cost(work_of(s)));
}

}  // namespace npconv
