// What an instruction set must offer, and no more.
//
// Every file in this folder is compiled with its own -m flags, includes nothing beyond <cstddef>, <cstdint>, the
// compiler's intrinsics and the headers of this folder, and exports one symbol, a table. An inline function shared with
// the rest of the library would be merged with its twin at link time, and the survivor could use instructions that the
// machine lacks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace npconv {

using index_t = std::int64_t;

/// A run of a panel's columns whose pixels lie side by side, from position `at` on.
struct Segment {
    index_t at;
    int column, length;
};

/// The largest register tile of any instruction set.
constexpr int max_tile_rows = 14;
constexpr int max_tile_columns = 32;

/// Which taps of their windows hold the maxima of four windows in a row, a byte for each, the first the lowest.
using TapWord = std::int32_t;
constexpr int windows_per_word = 4;
constexpr int no_tap = 255;  ///< a maximum that ReLU cuts

/// How many taps, one below the other, are met together at most.
constexpr int longest_run = 7;
/// The largest stride of pixels that planes are read at as they lie; runs are shorter then.
constexpr int longest_stride = 2;
constexpr int longest_strided_run = 5;

/// The taps of depthwise convolution are met in blocks of so many rows and columns at most.
constexpr int most_tap_rows = 3, most_tap_columns = 3;

/// A form of Winograd's algorithm, for kernels of `kernel` x `kernel` taps and a stride: `tile` x `tile` outputs from
/// size x size inputs, by as many products.
struct WinogradForm {
    int kernel, stride, tile;
    constexpr int size() const { return stride * (tile - 1) + kernel; }
};
/// One array for the whole library: a pointer to a form tells which of the transforms are its own.
inline constexpr WinogradForm winograd_forms[] = {{2, 1, 4}, {3, 1, 2}, {3, 1, 4}, {3, 1, 5}, {3, 1, 3}, {3, 2, 2},
                                                  {4, 1, 4}, {4, 2, 2}, {5, 1, 2}, {5, 1, 3}, {5, 2, 2}};
constexpr int winograd_form_count = sizeof(winograd_forms) / sizeof(WinogradForm);
/// The same along columns alone: `tile` results, one below the other, from `size()` pixels.
inline constexpr WinogradForm winograd_1d = {3, 1, 4};

/// Where the results of such a tile go, a vector wide: `rows` rows of `columns` results, the first at `at`.
struct TileResult {
    index_t at;
    int rows, columns;
};

/// The transforms of a form, of `columns` small square matrices at a time: element e of matrix j is read at
/// src[from[e] + j] and written to dst[to[e] + j], with bias[j] added where there is a bias. Whole vectors are read and
/// written. size x size elements stand for a tile between the transforms.
template <class T>
struct WinogradTransforms {
    using Transform = void (*)(const T* src, const index_t* from, index_t columns, T* dst, const index_t* to,
                               const T* bias);
    Transform input;            ///< B^T x B: from the pixels that a tile reads
    Transform filter;           ///< G w G^T: from kernel x kernel weights
    Transform output;           ///< A^T y A: to tile x tile pixels
    Transform output_relu;      ///< ReLU of that
    Transform output_gradient;  ///< A dy A^T: from tile x tile pixels
    Transform input_gradient;   ///< B dx B^T, added to the pixels that a tile reads
    Transform filter_gradient;  ///< G^T dw G: to kernel x kernel weights
};
/// How an optimizer makes weights better.
enum class Rule { sgd, momentum, nesterov, adagrad, rmsprop, adam };

struct RuleSizes {
    int kept, numbers;  ///< how many arrays it keeps, and how many numbers it has
};
constexpr RuleSizes rule_sizes[] = {{0, 1}, {1, 2}, {1, 2}, {1, 2}, {1, 3}, {2, 4}};
constexpr int rule_count = sizeof(rule_sizes) / sizeof(RuleSizes);

template <class T>
struct TypedKernels {
    int lanes;  ///< elements of one vector
    int mr;     ///< rows of a register tile: output channels, their weights are broadcast
    int nr;     ///< columns of a register tile: pixels, in whole vectors

    // With `relu`, what these kernels store is ReLU of the sum.

    /// C[i][j] = base + sum over k < kc of a[k*lda + i] * b[b_row[k] + j], for i < m (the index of the table),
    /// j < n <= nr; base is C[i][j] if `accumulate`, else bias[i] where there is a bias, else nothing.
    /// Whole vectors of b are read, so nr elements must be readable behind each row start. Meanwhile the lines at
    /// next + k*ld_next, k < kc, are fetched into the L2 cache: of what will be packed next, or with ld_next = 0 none
    /// that is not there yet.
    void (*gemm_tile[max_tile_rows + 1])(index_t kc, const T* a, index_t lda, const T* b, const index_t* b_row, T* c,
                                         index_t ldc, int n, const T* bias, bool accumulate, bool relu, const T* next,
                                         index_t ld_next);

    /// The same for the last columns of a matrix, n <= lanes: one vector wide.
    void (*narrow_gemm_tile[max_tile_rows + 1])(index_t kc, const T* a, index_t lda, const T* b, const index_t* b_row,
                                                T* c, index_t ldc, int n, const T* bias, bool accumulate, bool relu,
                                                const T* next, index_t ld_next);

    /// C[i][j] = base + sum over y < rows, x < width of a[a_row[i] + y*ld_a + x] * b[(y*width + x)*ld_b + j], for i < m
    /// (the index of the table), j < nr; base is C[i][j] if `accumulate`, else 0.
    void (*row_gemm_tile[max_tile_rows + 1])(index_t rows, index_t width, const T* a, const index_t* a_row,
                                             index_t ld_a, const T* b, index_t ld_b, T* c, index_t ldc,
                                             bool accumulate);

    /// The same one vector wide: j < lanes.
    void (*narrow_row_gemm_tile[max_tile_rows + 1])(index_t rows, index_t width, const T* a, const index_t* a_row,
                                                    index_t ld_a, const T* b, index_t ld_b, T* c, index_t ldc,
                                                    bool accumulate);

    /// C[i][j] = base + sum over k < kc of a[a_row[k] + i] * b[k*nr + j], for i < m (the index of the table), j < nr;
    /// base is C[i][j] if `accumulate`, else bias[j] where there is a bias, else nothing. C has rows of nr.
    void (*pixel_gemm_tile[max_tile_rows + 1])(index_t kc, const T* a, const index_t* a_row, const T* b, T* c,
                                               const T* bias, bool accumulate, bool relu);

    /// The same one vector wide: j < lanes.
    void (*narrow_pixel_gemm_tile[max_tile_rows + 1])(index_t kc, const T* a, const index_t* a_row, const T* b, T* c,
                                                      const T* bias, bool accumulate, bool relu);

    /// dst[k*nr + column ...] = src[src_row[k] + segment.at ...] for each segment. Whole vectors are copied: up to
    /// `lanes` elements behind each segment are read, and behind the last row written.
    void (*pack_columns)(index_t kc, const T* src, const index_t* src_row, const Segment* segments, int count, T* dst);

    /// dst[k*nr + j] = src[k*ld_src + j] for k < kc, j < nr.
    void (*pack_rows)(index_t kc, const T* src, index_t ld_src, T* dst);

    /// The way back, adding up: dst[dst_row[k] + segment.at ...] += src[k*nr + segment.column ...] for each segment;
    /// first for k = 0, apart, 2*apart, ..., then for k = 1, 1 + apart, ...
    void (*add_columns)(index_t kc, const T* src, const Segment* segments, int count, T* dst, const index_t* dst_row,
                        index_t apart);

    /// The way of results: out[i*out_plane + segment.at + j*step] = base + tile[i*ld_tile + segment.column + j] for
    /// i < rows and each segment; base is what is there if `accumulate`, else bias[i] where there is a bias, else 0.
    void (*store_columns)(const T* tile, index_t ld_tile, index_t rows, const Segment* segments, int count,
                          index_t step, const T* bias, bool accumulate, bool relu, T* out, index_t out_plane);

    /// dst[j*ld_dst + i] = src[i*ld_src + j] for i < rows, j < columns, and 0 for rows <= i < width.
    void (*pack_transposed)(const T* src, index_t ld_src, index_t rows, index_t columns, T* dst, index_t ld_dst,
                            index_t width);

    /// dst[y*ld_dst + left + x] = src[y*ld_src + x*stride] for y < rows, x < n; the rest of each row of ld_dst elements
    /// is `pad`. Nothing at or behind src_end is read; up to `lanes` elements behind the last row are written.
    void (*copy_rows)(const T* src, const T* src_end, index_t ld_src, index_t stride, index_t rows, index_t n,
                      index_t left, T pad, T* dst, index_t ld_dst);

    /// For each j < n: y[j] = the first largest (or last NaN) of x[offset[t] + j*stride], stride 1 or 2 (the index of
    /// the table), and index[j] = base + j*step + code[t] of that tap; where every tap is minus infinity, of the
    /// window's first pixel, first[j] (code[0] if `first` is null). `index` may be null. The same for all rows: results
    /// follow each other, pixels are ld_x apart, and base grows by base_step. Whole vectors are read, and written up to
    /// y_end.
    void (*max_pool_rows[3])(int count, const T* x, const index_t* offset, const std::int32_t* code,
                             const std::int32_t* first, index_t rows, index_t ld_x, index_t base_step, index_t n, T* y,
                             const T* y_end, index_t base, index_t step, index_t* index);

    /// The same for ReLU of x: y[j] = 0 and tap[j] = no_tap unless y[j] > 0, else tap[j] = t. `tap` may be null; its
    /// rows begin with a word of their own.
    void (*relu_max_pool_rows[3])(int count, const T* x, const index_t* offset, index_t rows, index_t ld_x, index_t n,
                                  T* y, const T* y_end, std::uint8_t* tap);

    /// Max pooling of ReLU where the lanes are channels, [pixel][nr], of a row of windows: y[w] = the first largest (or
    /// last NaN) of x[w*step + offset[t]] over the taps t, but 0 unless it is > 0; and word[w/4] holds that t, or
    /// no_tap. `word` may be null.
    void (*relu_pool_pixels)(index_t count, index_t step, int taps, const T* x, const index_t* offset, T* y,
                             TapWord* word);

    /// The way back, one row of pixels under `count` windows of `width` pixels each: out[w*width + d] = dy[w] if the
    /// tap in word[w/4] is first + d, else 0. All are [pixel][nr].
    void (*unpool_pixels)(index_t count, index_t width, const T* dy, const TapWord* word, int first, T* out);

    /// y[i*ld_y + j] = bias + the sum over r < runs, t < run of weight[r*run + t] * row[i*stride + t][column[r] +
    /// j*stride], for i < rows and j < n; pixels outside of [0, width) count as 0. The indices of the table are
    /// `stride` and `run`. Whole vectors are read.
    void (*weighted_rows[longest_stride + 1][longest_run + 1])(index_t runs, const T* const* row, const index_t* column,
                                                               index_t width, const T* weight, T bias, bool relu,
                                                               index_t rows, index_t n, T* y, index_t ld_y);

    /// The same of stride 1 for two phases: even_runs give the even columns of y, the odd_runs behind them the odd
    /// ones.
    void (*alternating_rows[longest_strided_run + 1])(index_t even_runs, index_t odd_runs, const T* const* row,
                                                      const index_t* column, index_t width, const T* weight, T bias,
                                                      bool relu, index_t rows, index_t n, T* y, index_t ld_y);

    /// The way back: what has to be added to the gradient of weight[r*run + t], the sum over i < rows, j < n of
    /// dy[i*ld_dy + j] * row[i*stride + t][column[r] + j*stride], is added to the `lanes` elements from
    /// sums[(r*run + t)*lanes] on, in parts. Whole vectors are read.
    void (*products_of_runs[longest_stride + 1][longest_run + 1])(index_t runs, const T* const* row,
                                                                  const index_t* column, index_t width, const T* dy,
                                                                  index_t ld_dy, index_t rows, index_t n, T* sums);

    /// With channels as lanes: y[i*ld_y + j*step_y] = bias, or, if that is null, what is there, + the sum over r < R, c
    /// < C of weight[(r*C + c)*lanes] * x[offset[r] + i*ld_x + j*step_x + c*lanes], for i < rows and j < n; all of them
    /// are vectors. The indices of the table are R and C.
    void (*depthwise_taps[most_tap_rows + 1][most_tap_columns + 1])(const T* x, const index_t* offset, index_t ld_x,
                                                                    index_t step_x, const T* weight, const T* bias,
                                                                    bool relu, index_t rows, index_t n, T* y,
                                                                    index_t ld_y, index_t step_y);

    /// The way back: sums[(r*C + c)*lanes] += the sum of dy[(i*n + j)*lanes] * x[offset[r] + i*ld_x + j*step_x +
    /// c*lanes].
    void (*depthwise_products[most_tap_rows + 1][most_tap_columns + 1])(const T* x, const index_t* offset, index_t ld_x,
                                                                        index_t step_x, const T* dy, index_t rows,
                                                                        index_t n, T* sums);

    /// For several planes and any taps: sums[p*ld_sums + t] += the sum over i < rows, j < n of dy[p][i*ld_dy + j] *
    /// x[offset[t] + i*ld_x + j], for p < planes. Whole vectors are read.
    void (*products_of_rows)(index_t planes, index_t count, const T* x, const index_t* offset, index_t rows,
                             index_t ld_x, index_t n, const T* const* dy, index_t ld_dy, T* sums, index_t ld_sums);

    /// The sum of x, of (x - mean)^2, and of dy*(x - mean), over n elements.
    double (*sum)(const T* x, index_t n);
    double (*sum_of_squares)(const T* x, T mean, index_t n);
    double (*sum_of_products)(const T* dy, const T* x, T mean, index_t n);

    /// y = (x - mean)*scale + shift.
    void (*scale_and_shift)(const T* x, T mean, T scale, T shift, T* y, index_t n);

    /// dx = factor[0]*dy + factor[1]*(x - mean) + factor[2].
    void (*normalization_gradient)(const T* dy, const T* x, T mean, const T* factor, T* dx, index_t n);

    /// y[p] = the sum of x[p*n + i] over i < n, over the divisor, for p < count.
    void (*average_runs)(index_t count, const T* x, index_t n, T divisor, T* y);

    /// y[i*ld_y + j] = the sum of x[r*width + j] over begin[i] <= r < end[i], over divisor[i] unless it is null, for
    /// i < rows and j < width.
    void (*sum_rows)(index_t rows, const T* x, index_t width, const index_t* begin, const index_t* end,
                     const T* divisor, T* y, index_t ld_y);

    /// y[j] = (x[j*stride] + ... + x[j*stride + kernel - 1]) / (columns[j]*rows) for j < n; without columns, over rows.
    /// The index of the table is the stride, or 0 for any. Up to 2*lanes elements behind x are read.
    void (*average_windows[3])(index_t n, index_t kernel, index_t stride, const T* x, const T* columns, T rows, T* y);

    /// The way back: dx[i] = the sum over the windows j that cover pixel i of v[j], over the divisor, for i < n; v[j]
    /// is 0 for (kernel - 1)/stride windows before the first and up to `lanes` behind the last.
    void (*spread_windows[3])(index_t n, index_t kernel, index_t stride, const T* v, T divisor, T* dx);

    WinogradTransforms<T> winograd[winograd_form_count];  ///< in the order of winograd_forms

    int winograd_1d_channels;  ///< output channels of a tile of nr columns

    /// The weights of `lanes` output channels for winograd_1d_tile, tile by tile: of each term three taps, one below
    /// the other, are read at taps[from[3*term ...]], [tap][lanes].
    void (*winograd_1d_filter)(index_t terms, const T* taps, const index_t* from, T* to);

    /// The pixels for it: of each term and each vector v of nr columns, rows ld_x apart from x[at[v] + offset[term]]
    /// on.
    void (*winograd_1d_input)(index_t terms, const T* x, const index_t* at, const index_t* offset, index_t ld_x, T* to);

    /// The results of `channels` output channels, at most those of a tile, `plane` apart: vector v goes to to[v], whose
    /// rows are `row` apart; past the cache with `stream`, for which all are whole vectors at multiples of their size.
    void (*winograd_1d_tile)(index_t terms, const T* weights, const T* pixels, const TileResult* to, T* out,
                             index_t plane, index_t row, index_t channels, const T* bias, bool relu, bool stream);

    void (*relu_forward)(const T* x, T* y, index_t n);
    void (*relu_backward)(const T* dy, const T* y, T* dx, index_t n);

    /// One step of a rule: weights w, their gradient g, what the rule keeps (a, b), its numbers. No two overlap.
    ///   sgd       w -= lr*g                                                                     (lr)
    ///   momentum  a = momentum*a - lr*g;  w += a                                                (lr, momentum)
    ///   nesterov  w += momentum^2*a - (1 + momentum)*lr*g;  a = momentum*a - lr*g               (lr, momentum)
    ///   adagrad   a += g^2;  w -= lr*g / (sqrt(a) + epsilon)                                    (lr, epsilon)
    ///   rmsprop   a = decay*a + (1 - decay)*g^2;  w -= lr*g / (sqrt(a) + epsilon)               (lr, epsilon, decay)
    ///   adam      a += (1 - beta1)*(g - a);  b += (1 - beta2)*(g^2 - b);
    ///             w -= lr*a / (sqrt(b) + epsilon)                                (lr, epsilon, beta1, beta2)
    void (*update[rule_count])(T* w, const T* g, T* a, T* b, const double* numbers, index_t n);
};

struct Kernels {
    TypedKernels<float> f32;
    TypedKernels<double> f64;

    template <class T>
    constexpr const TypedKernels<T>& of() const {
        if constexpr (sizeof(T) == sizeof(float)) {
            return f32;
        } else {
            return f64;
        }
    }
};

/// Two bfloat16, the first in the lower half: two terms of a sum, side by side.
using Bfloat16Pair = std::int32_t;

/// Products of float32 matrices by a unit that multiplies tiles of bfloat16. A float32 is exactly the sum of three
/// parts with 8 of its 24 bits each, which bfloat16 holds: high, middle and low. Of the nine products of two such sums
/// the six largest give what a float32 product would: the rest is 2^-24 of it. (G. Henry, P. T. P. Tang, A. Heinecke:
/// "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019.) Of an infinity,
/// and of what exceeds the range on the way, it makes NaN; subnormal numbers are 0.
struct Bfloat16x3Kernels {
    static constexpr int parts = 3;
    static constexpr int pairs = 16;               ///< of terms, in one step of a product
    static constexpr int rows = 32, columns = 32;  ///< of a tile of results

    /// The left or the right operand of a product: pair k of step s, in row or column i, lies at data[at[s] + i*ld + k]
    /// or data[at[s] + k*ld + i], and its parts `part` apart.
    struct Operand {
        const Bfloat16Pair* data;
        const index_t* at;
        index_t ld, part;
    };

    /// For a left operand: pair k of row i, x[i*ld + 2k] and x[i*ld + 2k + 1], to to[i*ld_to + k], for i < count and
    /// 2k < n. What is missing up to a whole step is 0.
    void (*split_rows)(index_t count, index_t n, const float* x, index_t ld, Bfloat16Pair* to, index_t ld_to,
                       index_t part);

    /// For a right operand: pair k of column j, x[2k*ld + j] and x[(2k + 1)*ld + j], to to[k*ld_to + j], for 2k < count
    /// and j < n. What is missing up to a whole step is 0. Whole vectors of 16 are written.
    void (*split_columns)(index_t count, index_t n, const float* x, index_t ld, Bfloat16Pair* to, index_t ld_to,
                          index_t part);

    /// To be called by a thread before its first tile, and after its last.
    void (*begin)();
    void (*end)();

    /// c[i*columns + j] = the sum over all pairs, of `steps` steps, of a's row i times b's column j, for i < m <= rows
    /// and j < n <= columns; added to what is there if `accumulate`. Whole tiles are read and written.
    void (*tile)(int m, int n, index_t steps, const Operand& a, const Operand& b, float* c, bool accumulate);

    /// bits[j] = those of the largest magnitude of c[i*columns + j], i < m: of a NaN, if there is one.
    void (*largest)(index_t m, const float* c, std::uint32_t* bits);

    /// to[i*columns + j] = base + c[i*columns + j] for i < m and all columns, or ReLU of that; base is what is there if
    /// `accumulate`, else bias[j].
    void (*add_rows)(index_t m, const float* c, const float* bias, bool accumulate, bool relu, float* to);
};

// The table of each instruction set; which of them are compiled in is CMakeLists.txt's to say.
extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_neon;
extern const Bfloat16x3Kernels kernels_amx;  ///< beside those of AVX-512

}  // namespace npconv
