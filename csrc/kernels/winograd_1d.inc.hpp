// Winograd's algorithm along columns alone: four results, one below the other, of three taps from six pixels,
//     y = A^T [ (G w) * (B^T x) ],      * element by element,
// summed over input channels and the taps of a row. Vectors lie along a row of pixels, as in memory.
#pragma once

#include "winograd.inc.hpp"

namespace npconv {
namespace {

template <class T>
using Winograd1d = WinogradMatrices<T, winograd_1d.kernel, winograd_1d.stride, winograd_1d.tile>;

/// G w, of a vector of output channels, `Channels` of them side by side.
template <class T, int Bytes, int Channels>
void winograd_1d_filter(index_t terms, const T* taps, const index_t* from, T* to) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int size = winograd_1d.size(), kernel = winograd_1d.kernel;
    for (index_t term = 0; term < terms; ++term, from += kernel, to += size * Channels) {
        Vector w[kernel], u[size];
        NPCONV_UNROLL
        for (int i = 0; i < kernel; ++i) w[i] = S::load(taps + from[i]);
        expand<Winograd1d<T>::pairs>(Winograd1d<T>::g, w, u);
        for (int e = 0; e < size; ++e) {
            for (int k = 0; k < S::lanes; ++k) {
                to[k / Channels * terms * size * Channels + e * Channels + k % Channels] = u[e][k];
            }
        }
    }
}

/// B^T x, of NV vectors of pixels.
template <class T, int Bytes, int NV>
void winograd_1d_input(index_t terms, const T* x, const index_t* at, const index_t* offset, index_t ld_x, T* to) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int size = winograd_1d.size();
    for (index_t term = 0; term < terms; ++term, to += size * NV * S::lanes) {
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            const T* const from = x + at[v] + offset[term];
            Vector pixels[size], transformed[size];
            NPCONV_UNROLL
            for (int i = 0; i < size; ++i) pixels[i] = S::load(from + i * ld_x);
            expand<Winograd1d<T>::pairs>(Winograd1d<T>::bt, pixels, transformed);
            NPCONV_UNROLL
            for (int e = 0; e < size; ++e) S::store(to + (e * NV + v) * S::lanes, transformed[e]);
        }
    }
}

/// The products of both, summed in registers, and A^T of those: `Channels` output channels of NV vectors of pixels.
template <class T, int Bytes, int Channels, int NV>
void winograd_1d_tile(index_t terms, const T* weights, const T* pixels, const TileResult* to, T* out, index_t plane,
                      index_t row, index_t channels, const T* bias, bool relu, bool stream) {
    using S = Simd<T, Bytes>;
    using Vector = typename S::Vector;
    constexpr int size = winograd_1d.size(), tile = winograd_1d.tile, lanes = S::lanes;

    Vector sum[size][Channels][NV] = {};
    for (index_t term = 0; term < terms; ++term) {
        NPCONV_UNROLL
        for (int e = 0; e < size; ++e) {
            Vector x[NV];
            NPCONV_UNROLL
            for (int v = 0; v < NV; ++v) x[v] = S::load(pixels + (e * NV + v) * lanes);
            NPCONV_UNROLL
            for (int k = 0; k < Channels; ++k) {
                const Vector w = S::broadcast(weights[e * Channels + k]);
                NPCONV_UNROLL
                for (int v = 0; v < NV; ++v) sum[e][k][v] += w * x[v];
            }
        }
        weights += size * Channels;
        pixels += size * NV * lanes;
    }
    NPCONV_UNROLL
    for (int k = 0; k < Channels; ++k) {
        if (k >= channels) break;
        const Vector base = S::broadcast(bias ? bias[k] : T(0));
        NPCONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            Vector products[size], y[tile];
            NPCONV_UNROLL
            for (int e = 0; e < size; ++e) products[e] = sum[e][k][v];
            contract<Winograd1d<T>::pairs>(Winograd1d<T>::a, products, y);
            T* const result = out + k * plane + to[v].at;
            NPCONV_UNROLL
            for (int i = 0; i < tile; ++i) {
                if (i >= to[v].rows) break;
                Vector value = y[i] + base;
                if (relu) value = S::relu(value);
                if (stream) {
                    S::stream(result + i * row, value);
                } else if (to[v].columns == lanes) {
                    S::store(result + i * row, value);
                } else {
                    S::store_part(result + i * row, value, to[v].columns);
                }
            }
        }
    }
}

}  // namespace
}  // namespace npconv
