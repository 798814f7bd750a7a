// AMX: eight tile registers of 16 rows by 64 bytes, and a unit that multiplies them as bfloat16 and sums in float32: 16
// times as many products a cycle as AVX-512 has of float32.
#include <immintrin.h>

#include "simd.hpp"

namespace npconv {
namespace {

using Unit = Bfloat16x3Kernels;

// The parts of 16 pairs (a[j], b[j]) to to[p*part + j].
inline void split(__m512 a, __m512 b, Bfloat16Pair* to, index_t part) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    NPCONV_UNROLL
    for (int p = 0; p < Unit::parts; ++p) {
        const __m512i a_bits = _mm512_castps_si512(a), b_bits = _mm512_castps_si512(b);
        const __m512i lower = _mm512_maskz_srli_epi32(0xffff, a_bits, 16);
        // Bit by bit: of b where `upper` is set, else of a.
        _mm512_storeu_si512(to + p * part, _mm512_ternarylogic_epi32(upper, b_bits, lower, 0xca));
        // What is cut off is the rest, exactly.
        a -= _mm512_castsi512_ps(_mm512_and_si512(a_bits, upper));
        b -= _mm512_castsi512_ps(_mm512_and_si512(b_bits, upper));
    }
}

inline __mmask16 first(index_t n) { return static_cast<__mmask16>(n <= 0 ? 0 : n < 16 ? (1 << n) - 1 : 0xffff); }

void split_rows(index_t count, index_t n, const float* x, index_t ld, Bfloat16Pair* to, index_t ld_to, index_t part) {
    // Every second element of two vectors.
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    for (index_t i = 0; i < count; ++i, x += ld, to += ld_to) {
        for (index_t j = 0; j < n; j += 32) {
            const __m512 left = _mm512_maskz_loadu_ps(first(n - j), x + j);
            const __m512 right = _mm512_maskz_loadu_ps(first(n - j - 16), x + j + 16);
            split(_mm512_permutex2var_ps(left, even, right), _mm512_permutex2var_ps(left, odd, right), to + j / 2,
                  part);
        }
    }
}

void split_columns(index_t count, index_t n, const float* x, index_t ld, Bfloat16Pair* to, index_t ld_to,
                   index_t part) {
    const index_t whole_steps = (count + 2 * Unit::pairs - 1) / (2 * Unit::pairs) * 2 * Unit::pairs;
    for (index_t i = 0; i < whole_steps; i += 2, x += 2 * ld, to += ld_to) {
        for (index_t j = 0; j < n; j += 16) {
            const __m512 a = _mm512_maskz_loadu_ps(i < count ? first(n - j) : first(0), x + j);
            const __m512 b = _mm512_maskz_loadu_ps(i + 1 < count ? first(n - j) : first(0), x + ld + j);
            split(a, b, to + j, part);
        }
    }
}

struct TileConfiguration {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfiguration whole_tiles;

void begin() { _tile_loadconfig(&whole_tiles); }
void end() { _tile_release(); }

// Registers 0 to 3 are the sums, 4 and 5 tiles of a, 6 and 7 of b.
template <int Rows, int Columns>
void multiply_tiles(index_t steps, const Unit::Operand& a, const Unit::Operand& b, float* c, bool accumulate) {
    constexpr int high = 0, middle = 1, low = 2;
    constexpr index_t c_row = Unit::columns * sizeof(float);
    const index_t a_row = a.ld * static_cast<index_t>(sizeof(Bfloat16Pair));
    const index_t b_row = b.ld * static_cast<index_t>(sizeof(Bfloat16Pair));
    float *const right = c + 16, *const below = c + 16 * Unit::columns, *const corner = below + 16;
    if (accumulate) {
        _tile_loadd(0, c, c_row);
        if (Columns > 1) _tile_loadd(1, right, c_row);
        if (Rows > 1) _tile_loadd(2, below, c_row);
        if (Rows > 1 && Columns > 1) _tile_loadd(3, corner, c_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (index_t step = 0; step < steps; ++step) {
        const Bfloat16Pair *const a_step = a.data + a.at[step], *const b_step = b.data + b.at[step];
        const auto load_a = [&](int part) __attribute__((always_inline)) {
            _tile_loadd(4, a_step + part * a.part, a_row);
            if (Rows > 1) _tile_loadd(5, a_step + part * a.part + 16 * a.ld, a_row);
        };
        const auto load_b = [&](int part) __attribute__((always_inline)) {
            _tile_loadd(6, b_step + part * b.part, b_row);
            if (Columns > 1) _tile_loadd(7, b_step + part * b.part + 16, b_row);
        };
        const auto multiply = [&]() __attribute__((always_inline)) {
            _tile_dpbf16ps(0, 4, 6);
            if (Columns > 1) _tile_dpbf16ps(1, 4, 7);
            if (Rows > 1) _tile_dpbf16ps(2, 5, 6);
            if (Rows > 1 && Columns > 1) _tile_dpbf16ps(3, 5, 7);
        };
        // After 2000 cycles without work the vector units fall asleep; storing a tile would then take 1000 more.
        __m512 awake = _mm512_setzero_ps();
        asm volatile("vfmadd231ps %0, %0, %0" : "+v"(awake));
        // The six largest products, in an order that loads few tiles twice.
        load_a(high);
        load_b(low);
        multiply();
        load_b(middle);
        multiply();
        load_a(middle);
        multiply();
        load_b(high);
        multiply();
        load_a(low);
        multiply();
        load_a(high);
        multiply();
    }
    _tile_stored(0, c, c_row);
    if (Columns > 1) _tile_stored(1, right, c_row);
    if (Rows > 1) _tile_stored(2, below, c_row);
    if (Rows > 1 && Columns > 1) _tile_stored(3, corner, c_row);
}

void tile(int m, int n, index_t steps, const Unit::Operand& a, const Unit::Operand& b, float* c, bool accumulate) {
    const auto multiply = m > 16 ? (n > 16 ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)
                                 : (n > 16 ? multiply_tiles<1, 2> : multiply_tiles<1, 1>);
    multiply(steps, a, b, c, accumulate);
}

void largest(index_t m, const float* c, std::uint32_t* bits) {
    using S = Simd<float, 64>;
    // As integers, magnitudes are in the same order, and NaN behind them all.
    S::IntVector most[2] = {};
    for (index_t i = 0; i < m; ++i, c += Unit::columns) {
        NPCONV_UNROLL
        for (int v = 0; v < 2; ++v) {
            const S::IntVector magnitudes = reinterpret_cast<S::IntVector>(S::load(c + 16 * v)) & 0x7fffffff;
            most[v] = magnitudes > most[v] ? magnitudes : most[v];
        }
    }
    __builtin_memcpy(bits, most, sizeof most);
}

void add_rows(index_t m, const float* c, const float* bias, bool accumulate, bool relu, float* to) {
    const __m512 left = _mm512_loadu_ps(bias), right = _mm512_loadu_ps(bias + 16);
    for (index_t i = 0; i < m; ++i, c += Unit::columns, to += Unit::columns) {
        const __m512 sums[2] = {_mm512_loadu_ps(c) + (accumulate ? _mm512_loadu_ps(to) : left),
                                _mm512_loadu_ps(c + 16) + (accumulate ? _mm512_loadu_ps(to + 16) : right)};
        NPCONV_UNROLL
        for (int v = 0; v < 2; ++v) _mm512_storeu_ps(to + 16 * v, relu ? Simd<float, 64>::relu(sums[v]) : sums[v]);
    }
}

}  // namespace

extern constexpr Bfloat16x3Kernels kernels_amx = {split_rows, split_columns, begin, end, tile, largest, add_rows};

}  // namespace npconv
