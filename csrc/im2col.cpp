#include "im2col.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace npconv {
namespace {

/// The elements [begin, end) of a kernel row at column x0 that lie inside the image.
struct Inside {
    index_t begin, end;
};

Inside inside(index_t x0, index_t kernel, index_t dilation, index_t width) {
    const index_t begin = x0 < 0 ? std::min(ceil_div(-x0, dilation), kernel) : 0;
    const index_t end = x0 < width ? std::min(ceil_div(width - x0, dilation), kernel) : 0;
    return {begin, std::max(begin, end)};
}

}  // namespace

template <class T>
void im2col(const ConvShape& s, const T* x, T* col) {
    const index_t row_size = s.c * s.kh * s.kw;
    parallel_for(s.n * s.oh, static_cast<double>(s.ow * row_size) * element_ns, [&](index_t task) {
        const index_t n = task / s.oh, y0 = task % s.oh * s.stride.h - s.pad.top;
        T* to = col + task * s.ow * row_size;
        for (index_t ox = 0; ox < s.ow; ++ox) {
            const index_t x0 = ox * s.stride.w - s.pad.left;
            const Inside span = inside(x0, s.kw, s.dilation.w, s.w);
            for (index_t c = 0; c < s.c; ++c) {
                for (index_t r = 0; r < s.kh; ++r, to += s.kw) {
                    const index_t y = y0 + r * s.dilation.h;
                    const Inside used = y >= 0 && y < s.h ? span : Inside{0, 0};
                    const T* from = x + ((n * s.c + c) * s.h + y) * s.w + x0;
                    std::fill(to, to + used.begin, T(0));
                    for (index_t i = used.begin; i < used.end; ++i) to[i] = from[i * s.dilation.w];
                    std::fill(to + used.end, to + s.kw, T(0));
                }
            }
        }
    });
}

template <class T>
void col2im(const ConvShape& s, const T* col, T* x) {
    const index_t row_size = s.c * s.kh * s.kw;
    parallel_for(s.n * s.c, static_cast<double>(s.oh * s.ow * s.kh * s.kw) * element_ns, [&](index_t task) {
        const index_t n = task / s.c, c = task % s.c;
        T* const plane = x + task * s.h * s.w;
        std::fill(plane, plane + s.h * s.w, T(0));
        const T* from = col + n * s.oh * s.ow * row_size + c * s.kh * s.kw;
        for (index_t oy = 0; oy < s.oh; ++oy) {
            for (index_t ox = 0; ox < s.ow; ++ox, from += row_size) {
                const index_t x0 = ox * s.stride.w - s.pad.left;
                const Inside used = inside(x0, s.kw, s.dilation.w, s.w);
                for (index_t r = 0; r < s.kh; ++r) {
                    const index_t y = oy * s.stride.h - s.pad.top + r * s.dilation.h;
                    if (y < 0 || y >= s.h) continue;
                    T* to = plane + y * s.w + x0;
                    for (index_t i = used.begin; i < used.end; ++i) to[i * s.dilation.w] += from[r * s.kw + i];
                }
            }
        }
    });
}

namespace {

/// Calls body(offset in columns, offset in x, count) for the runs of places of a plane whose pixels, stride.w apart,
/// lie inside the image; what is between the runs is padding.
template <class Body>
void for_rows_of_places(const ConvShape& s, index_t plane, Body&& body) {
    const index_t places = s.oh * s.ow;
    for (index_t r = 0; r < s.kh; ++r) {
        for (index_t q = 0; q < s.kw; ++q) {
            const index_t row = ((plane * s.kh + r) * s.kw + q) * places, x0 = q * s.dilation.w - s.pad.left;
            const Inside used = inside(x0, s.ow, s.stride.w, s.w);
            for (index_t oy = 0; oy < s.oh; ++oy) {
                const index_t y = oy * s.stride.h + r * s.dilation.h - s.pad.top;
                const Inside here = y >= 0 && y < s.h ? used : Inside{0, 0};
                body(row + oy * s.ow, here, (plane * s.h + y) * s.w + x0);
            }
        }
    }
}

double place_ns(const ConvShape& s) { return static_cast<double>(s.kh * s.kw * s.oh * s.ow) * element_ns; }

}  // namespace

template <class T>
void unfold(const ConvShape& s, const T* x, T* columns) {
    parallel_for(s.n * s.c, place_ns(s), [&](index_t plane) {
        for_rows_of_places(s, plane, [&](index_t row, Inside used, index_t from) {
            T* const to = columns + row;
            std::fill(to, to + used.begin, T(0));
            if (s.stride.w == 1) {
                std::copy(x + from + used.begin, x + from + used.end, to + used.begin);
            } else {
                for (index_t i = used.begin; i < used.end; ++i) to[i] = x[from + i * s.stride.w];
            }
            std::fill(to + used.end, to + s.ow, T(0));
        });
    });
}

template <class T>
void fold(const ConvShape& s, const T* columns, T* x) {
    parallel_for(s.n * s.c, place_ns(s), [&](index_t plane) {
        std::fill(x + plane * s.h * s.w, x + (plane + 1) * s.h * s.w, T(0));
        for_rows_of_places(s, plane, [&](index_t row, Inside used, index_t at) {
            const T* const from = columns + row;
            T* const to = x + at;
            if (s.stride.w == 1) {
                for (index_t i = used.begin; i < used.end; ++i) to[i] += from[i];
            } else {
                for (index_t i = used.begin; i < used.end; ++i) to[i * s.stride.w] += from[i];
            }
        });
    });
}

template void unfold(const ConvShape&, const float*, float*);
template void unfold(const ConvShape&, const double*, double*);
template void fold(const ConvShape&, const float*, float*);
template void fold(const ConvShape&, const double*, double*);
template void im2col(const ConvShape&, const float*, float*);
template void im2col(const ConvShape&, const double*, double*);
template void col2im(const ConvShape&, const float*, float*);
template void col2im(const ConvShape&, const double*, double*);

}  // namespace npconv
