// Fills a `Kernels` table: the vector width and the tile sizes are all that an instruction set has to choose.
#pragma once

#include "depthwise.inc.hpp"
#include "elementwise.inc.hpp"
#include "gemm.inc.hpp"
#include "pack.inc.hpp"
#include "planes.inc.hpp"
#include "pool.inc.hpp"
#include "sums.inc.hpp"
#include "winograd.inc.hpp"
#include "winograd_1d.inc.hpp"

namespace npconv {
namespace {

template <class T, int Bytes, int M, int NV>
constexpr void fill_tiles(TypedKernels<T>& kernels) {
    kernels.gemm_tile[M] = gemm_tile<T, Bytes, M, NV>;
    kernels.narrow_gemm_tile[M] = gemm_tile<T, Bytes, M, 1>;
    kernels.pixel_gemm_tile[M] = pixel_gemm_tile<T, Bytes, M, NV, NV * Simd<T, Bytes>::lanes>;
    kernels.narrow_pixel_gemm_tile[M] = pixel_gemm_tile<T, Bytes, M, 1, NV * Simd<T, Bytes>::lanes>;
    kernels.row_gemm_tile[M] = row_gemm_tile<T, Bytes, M, NV>;
    kernels.narrow_row_gemm_tile[M] = row_gemm_tile<T, Bytes, M, 1>;
    if constexpr (M > 1) fill_tiles<T, Bytes, M - 1, NV>(kernels);
}

template <class T, int Bytes, bool ManyRegisters, int Stride, int Run>
constexpr void fill_runs(TypedKernels<T>& kernels) {
    constexpr int rows = Stride == 1 || ManyRegisters ? 8 : 4;
    kernels.weighted_rows[Stride][Run] = weighted_rows<T, Bytes, Stride, Run, rows>;
    if constexpr (Stride == 2) kernels.alternating_rows[Run] = alternating_rows<T, Bytes, Run, 4>;
    kernels.products_of_runs[Stride][Run] = products_of_runs<T, Bytes, Stride, Run, (ManyRegisters ? 3 : 2)>;
    if constexpr (Run > 1) fill_runs<T, Bytes, ManyRegisters, Stride, Run - 1>(kernels);
}

template <class T, int Bytes, int Rows, int Columns>
constexpr void fill_depthwise(TypedKernels<T>& kernels) {
    kernels.depthwise_taps[Rows][Columns] = depthwise_taps<T, Bytes, Rows, Columns>;
    kernels.depthwise_products[Rows][Columns] = depthwise_products<T, Bytes, Rows, Columns>;
    if constexpr (Columns > 1) {
        fill_depthwise<T, Bytes, Rows, Columns - 1>(kernels);
    } else if constexpr (Rows > 1) {
        fill_depthwise<T, Bytes, Rows - 1, most_tap_columns>(kernels);
    }
}

template <class T, int Bytes, int Form>
constexpr void fill_winograd(TypedKernels<T>& kernels) {
    kernels.winograd[Form] = winograd_transforms<T, Bytes, Form>();
    if constexpr (Form > 0) fill_winograd<T, Bytes, Form - 1>(kernels);
}

template <class T, int Bytes, int MR, int NV>
constexpr TypedKernels<T> typed_kernels() {
    static_assert(MR <= max_tile_rows && NV * Simd<T, Bytes>::lanes <= max_tile_columns);
    static_assert(NV == 2);  // or the last columns, in whole vectors, would fill neither a tile nor a narrow one
    TypedKernels<T> kernels{};
    kernels.lanes = Simd<T, Bytes>::lanes;
    kernels.mr = MR;
    kernels.nr = NV * Simd<T, Bytes>::lanes;
    fill_tiles<T, Bytes, MR, NV>(kernels);
    kernels.pack_columns = pack_columns<T, Bytes, NV>;
    kernels.pack_rows = pack_rows<T, Bytes, NV>;
    kernels.add_columns = add_columns<T, Bytes, NV>;
    kernels.store_columns = store_columns<T, Bytes>;
    kernels.pack_transposed = pack_transposed<T, Bytes>;
    kernels.copy_rows = copy_rows<T, Bytes>;
    kernels.max_pool_rows[1] = max_pool_rows<T, Bytes, 1>;
    kernels.max_pool_rows[2] = max_pool_rows<T, Bytes, 2>;
    kernels.relu_max_pool_rows[1] = relu_max_pool_rows<T, Bytes, 1>;
    kernels.relu_max_pool_rows[2] = relu_max_pool_rows<T, Bytes, 2>;
    kernels.relu_pool_pixels = relu_pool_pixels<T, Bytes, NV>;
    kernels.unpool_pixels = unpool_pixels<T, Bytes, NV>;
    static_assert(longest_stride == 2);
    fill_runs<T, Bytes, (MR * NV >= 28), 1, longest_run>(kernels);
    fill_runs<T, Bytes, (MR * NV >= 28), 2, longest_strided_run>(kernels);
    fill_depthwise<T, Bytes, most_tap_rows, most_tap_columns>(kernels);
    kernels.products_of_rows = products_of_rows<T, Bytes, (MR * NV >= 28 ? 24 : 8)>;
    kernels.sum = sum<T, Bytes>;
    kernels.sum_of_squares = sum_of_squares<T, Bytes>;
    kernels.sum_of_products = sum_of_products<T, Bytes>;
    kernels.scale_and_shift = scale_and_shift<T, Bytes>;
    kernels.normalization_gradient = normalization_gradient<T, Bytes>;
    kernels.average_runs = average_runs<T, Bytes>;
    kernels.sum_rows = sum_rows<T, Bytes>;
    kernels.average_windows[0] = average_windows<T, Bytes, 3>;
    kernels.average_windows[1] = average_windows<T, Bytes, 1>;
    kernels.average_windows[2] = average_windows<T, Bytes, 2>;
    kernels.spread_windows[0] = spread_windows<T, Bytes, 3>;
    kernels.spread_windows[1] = spread_windows<T, Bytes, 1>;
    kernels.spread_windows[2] = spread_windows<T, Bytes, 2>;
    fill_winograd<T, Bytes, winograd_form_count - 1>(kernels);
    constexpr int channels = MR * NV >= 28 ? 2 : 1;  // each has 6*NV sums in registers
    kernels.winograd_1d_channels = channels;
    kernels.winograd_1d_filter = winograd_1d_filter<T, Bytes, channels>;
    kernels.winograd_1d_input = winograd_1d_input<T, Bytes, NV>;
    kernels.winograd_1d_tile = winograd_1d_tile<T, Bytes, channels, NV>;
    kernels.relu_forward = relu_forward<T>;
    kernels.relu_backward = relu_backward<T>;
    kernels.update[int(Rule::sgd)] = sgd_update<T>;
    kernels.update[int(Rule::momentum)] = momentum_update<T>;
    kernels.update[int(Rule::nesterov)] = nesterov_update<T>;
    kernels.update[int(Rule::adagrad)] = adagrad_update<T>;
    kernels.update[int(Rule::rmsprop)] = rmsprop_update<T>;
    kernels.update[int(Rule::adam)] = adam_update<T>;
    return kernels;
}

/// Vectors of `Bytes` bytes, register tiles of `MR` rows by `NV` vectors.
template <int Bytes, int MR, int NV>
constexpr Kernels make_kernels() {
    return {typed_kernels<float, Bytes, MR, NV>(), typed_kernels<double, Bytes, MR, NV>()};
}

}  // namespace
}  // namespace npconv
