#include "pad.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"

namespace npconv {
namespace {

/// Which pixel stands at each place of the padded axis.
std::vector<index_t> sources(index_t size, index_t before, index_t after, PaddingMode mode) {
    std::vector<index_t> from;
    for (index_t i = -before; i < size + after; ++i) {
        switch (mode) {
            case PaddingMode::reflect:  // about the first and the last pixel, which are not repeated
                from.push_back(i < 0 ? -i : i < size ? i : 2 * (size - 1) - i);
                break;
            case PaddingMode::replicate:
                from.push_back(std::clamp<index_t>(i, 0, size - 1));
                break;
            case PaddingMode::circular:
                from.push_back((i + size) % size);
                break;
        }
    }
    return from;
}

}  // namespace

void require_padding(const char* op, Pair size, const Padding& pad, PaddingMode mode) {
    require_at_least(op, "padding (top, left)", {pad.top, pad.left}, 0);
    require_at_least(op, "padding (bottom, right)", {pad.bottom, pad.right}, 0);
    const index_t spare = mode == PaddingMode::reflect ? 1 : 0;
    const bool fits =
        std::max(pad.top, pad.bottom) <= size.h - spare && std::max(pad.left, pad.right) <= size.w - spare;
    require(fits || mode == PaddingMode::replicate, op, "padding (top, left) ", Pair{pad.top, pad.left},
            ", (bottom, right) ", Pair{pad.bottom, pad.right}, " is too much for images of ", size,
            ": padding_mode 'reflect' needs less than the size, 'circular' at most the size");
}

template <class T>
void pad_forward(index_t planes, Pair size, const Padding& pad, PaddingMode mode, const T* x, T* y) {
    const std::vector<index_t> rows = sources(size.h, pad.top, pad.bottom, mode);
    const std::vector<index_t> columns = sources(size.w, pad.left, pad.right, mode);
    const index_t height = size.h + pad.top + pad.bottom, width = size.w + pad.left + pad.right;
    parallel_for(planes, static_cast<double>(height * width) * element_ns, [&](index_t plane) {
        T* to = y + plane * height * width;
        for (index_t i = 0; i < height; ++i, to += width) {
            const T* const from = x + (plane * size.h + rows[i]) * size.w;
            for (index_t j = 0; j < pad.left; ++j) to[j] = from[columns[j]];
            std::copy(from, from + size.w, to + pad.left);
            for (index_t j = pad.left + size.w; j < width; ++j) to[j] = from[columns[j]];
        }
    });
}

template <class T>
void pad_backward(index_t planes, Pair size, const Padding& pad, PaddingMode mode, const T* dy, T* dx) {
    const std::vector<index_t> rows = sources(size.h, pad.top, pad.bottom, mode);
    const std::vector<index_t> columns = sources(size.w, pad.left, pad.right, mode);
    const index_t height = size.h + pad.top + pad.bottom, width = size.w + pad.left + pad.right;
    parallel_for(planes, static_cast<double>(height * width) * element_ns, [&](index_t plane) {
        T* const image = dx + plane * size.h * size.w;
        std::fill(image, image + size.h * size.w, T(0));
        const T* from = dy + plane * height * width;
        for (index_t i = 0; i < height; ++i, from += width) {
            T* const to = image + rows[i] * size.w;
            for (index_t j = 0; j < pad.left; ++j) to[columns[j]] += from[j];
            for (index_t j = 0; j < size.w; ++j) to[j] += from[pad.left + j];
            for (index_t j = pad.left + size.w; j < width; ++j) to[columns[j]] += from[j];
        }
    });
}

template void pad_forward(index_t, Pair, const Padding&, PaddingMode, const float*, float*);
template void pad_forward(index_t, Pair, const Padding&, PaddingMode, const double*, double*);
template void pad_backward(index_t, Pair, const Padding&, PaddingMode, const float*, float*);
template void pad_backward(index_t, Pair, const Padding&, PaddingMode, const double*, double*);

}  // namespace npconv
