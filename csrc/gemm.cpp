#include "gemm.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// A task owns a block of c of at most rows_block x columns_block and sums it reduction_block steps at a time, so that
// what it reads of a (in float32 220 KiB) stays in the L2 cache, and a panel of b at a time (32 KiB) in the L1 cache.
constexpr index_t rows_block = 224;
constexpr index_t columns_block = 512;
constexpr index_t reduction_block = 256;

// Rows of a are read where they lie for up to so many columns of c: turning them over, into tiles whose steps are side
// by side, would cost more than it gains (0.8 to 1.0 times as fast; beyond 1.1 to 1.3).
constexpr index_t read_in_place = 128;

/// dst[k*width + i] = element (k, first + i) of a matrix whose rows run along the reduction, for i < count, and 0 for
/// count <= i < width. Up to a vector behind the last row is written.
template <class T>
void pack(const Matrix<T>& matrix, index_t k, index_t kc, index_t first, index_t count, index_t width, T* dst) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    if (matrix.transposed) {  // the reduction is contiguous
        kernel.pack_transposed(matrix.data + first * matrix.ld + k, matrix.ld, count, kc, dst, width, width);
        return;
    }
    const T* const from = matrix.data + k * matrix.ld + first;
    if (count == kernel.nr && width == count) {
        kernel.pack_rows(kc, from, matrix.ld, dst);
    } else {
        kernel.copy_rows(from, from + (kc - 1) * matrix.ld + count, matrix.ld, 1, kc, count, 0, T(0), dst, width);
    }
}

/// How many blocks an extent is cut into: few enough to be large, enough of them for the threads.
struct Grid {
    index_t rows, columns;
};

Grid choose_grid(index_t row_tiles, index_t column_tiles, int mr, int nr, int threads) {
    Grid grid{ceil_div(row_tiles * mr, rows_block), ceil_div(column_tiles * nr, columns_block)};
    while (grid.rows * grid.columns < threads) {  // halve the longer side of the blocks
        const index_t height = ceil_div(row_tiles, grid.rows) * mr, width = ceil_div(column_tiles, grid.columns) * nr;
        if (width >= height && grid.columns < column_tiles) {
            grid.columns = std::min(2 * grid.columns, column_tiles);
        } else if (grid.rows < row_tiles) {
            grid.rows = std::min(2 * grid.rows, row_tiles);
        } else if (grid.columns < column_tiles) {
            grid.columns = std::min(2 * grid.columns, column_tiles);
        } else {
            break;
        }
    }
    // As many for one thread as for another, where there are few.
    const auto uneven = [&] {
        return grid.rows * grid.columns < 8 * threads && grid.rows * grid.columns % threads != 0;
    };
    while (uneven() && grid.columns < column_tiles) ++grid.columns;
    return grid;
}

/// Into how many parts, summed apart and then added in order, a long reduction is cut where c is too small to share
/// among threads: a power of two, which threads share evenly. This depends on the shape alone, or the sums would depend
/// on the number of threads.
index_t choose_splits(index_t m, index_t n, index_t k) {
    const index_t small = 128 * 128, shortest = reduction_block * 3 / 2;
    index_t splits = 1;
    while (m * n <= small && splits < 16 && k >= 2 * splits * shortest) splits *= 2;
    return splits;
}

/// The block of c of one task, summed over [k_begin, k_end) of the reduction.
struct BlockOfC {
    index_t m, n;
    index_t first_row_tile, last_row_tile, row_tiles;
    index_t first_panel, last_panel;
    index_t k_begin, k_end;
};

/// A tile of c from rows of a as they lie. The kernel stores whole vectors: at the edge of c they go to a buffer first.
template <class T>
void multiply_rows(index_t rows, index_t columns, index_t kc, const T* a, index_t lda, const T* b, T* c, index_t ldc,
                   bool accumulate) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const bool narrow = columns <= kernel.lanes, whole = columns == (narrow ? kernel.lanes : kernel.nr);
    const auto gemm_tile = narrow ? kernel.narrow_row_gemm_tile[rows] : kernel.row_gemm_tile[rows];
    index_t a_row[max_tile_rows];
    for (index_t i = 0; i < rows; ++i) a_row[i] = i * lda;
    if (whole) {
        gemm_tile(1, kc, a, a_row, 0, b, kernel.nr, c, ldc, accumulate);
        return;
    }
    T sums[max_tile_rows * max_tile_columns];
    gemm_tile(1, kc, a, a_row, 0, b, kernel.nr, sums, kernel.nr, false);
    for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < columns; ++j) {
            const T sum = sums[i * kernel.nr + j];
            c[i * ldc + j] = accumulate ? c[i * ldc + j] + sum : sum;
        }
    }
}

template <class T>
void multiply_block(const BlockOfC& block, const Matrix<T>& a, const Matrix<T>& b, const T* bias, T* c) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t nr = kernel.nr, n = block.n, depth = std::min(block.k_end - block.k_begin, reduction_block);
    Scratch<T> b_packed(depth * nr + max_tile_columns);  // copy_rows writes whole vectors
    Scratch<index_t> b_row(depth);
    for (index_t i = 0; i < depth; ++i) b_row[i] = i * nr;

    const index_t tiles = block.last_row_tile - block.first_row_tile;
    const auto first_row = [&](index_t tile) {
        return share_begin(block.first_row_tile + tile, block.row_tiles, block.m);
    };
    const bool packed = !a.transposed && n > read_in_place;
    const index_t width = ceil_div(kernel.mr, kernel.lanes) * kernel.lanes;
    Scratch<T> a_packed(packed ? tiles * depth * width : 0);

    // Loop 3: the reduction. An empty one runs once, for the bias.
    index_t k = block.k_begin;
    do {
        const index_t kc = std::min(depth, block.k_end - k);
        for (index_t tile = 0; packed && tile < tiles; ++tile) {
            const Matrix<T> columns_of_a{a.data, a.ld, true};
            const index_t i = first_row(tile);
            pack(columns_of_a, k, kc, i, std::min(width, block.m - i), width, a_packed.data() + tile * depth * width);
        }
        // Loop 2: panels of b, each in the L1 cache while loop 1 passes the tiles of a.
        for (index_t panel = block.first_panel; panel < block.last_panel; ++panel) {
            const index_t j = panel * nr, columns = std::min<index_t>(nr, n - j);
            pack(b, k, kc, j, columns, nr, b_packed.data());
            for (index_t tile = 0; tile < tiles; ++tile) {
                const index_t i = first_row(tile), rows = first_row(tile + 1) - i;
                T* const out = c + i * n + j;
                if (bias && k == block.k_begin) {
                    for (index_t r = 0; r < rows; ++r) std::copy(bias + j, bias + j + columns, out + r * n);
                }
                const bool accumulate = bias || k > block.k_begin;
                if (!a.transposed && !packed) {
                    multiply_rows(rows, columns, kc, a.data + i * a.ld + k, a.ld, b_packed.data(), out, n, accumulate);
                    continue;
                }
                // What is read next is fetched meanwhile, a line for each step: the end of the next tile's columns of
                // a, where they lie; or the next panel, if its rows follow those of this one.
                constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
                const T* next = b_packed.data();
                index_t ld_next = 0;
                if (a.transposed) {
                    next = a.data + k * a.ld + first_row(tile + 2) - 1;
                    ld_next = a.ld;
                } else if (b.transposed && b.ld == kc && panel + 1 < block.last_panel && tile * line < nr) {
                    next = b.data + (j + nr + tile * line) * kc;
                    ld_next = line;
                }
                const auto gemm_tile = columns <= kernel.lanes ? kernel.narrow_gemm_tile[rows] : kernel.gemm_tile[rows];
                gemm_tile(kc, packed ? a_packed.data() + tile * depth * width : a.data + k * a.ld + i,
                          packed ? width : a.ld, b_packed.data(), b_row.data(), out, n, static_cast<int>(columns),
                          nullptr, accumulate, false, next, ld_next);
            }
        }
        k += kc;
    } while (k < block.k_end);
}

}  // namespace

template <class T>
void gemm(index_t m, index_t n, index_t k, Matrix<T> a, Matrix<T> b, const T* bias, T* c) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const index_t row_tiles = ceil_div(m, kernel.mr), panels = ceil_div(n, kernel.nr);
    if (m == 0 || n == 0) return;
    const index_t splits = choose_splits(m, n, k);
    const auto threads = static_cast<int>(ceil_div(get_num_threads(), splits));
    const Grid grid = choose_grid(row_tiles, panels, kernel.mr, kernel.nr, threads);
    const index_t blocks = grid.rows * grid.columns;
    Scratch<T> partials(splits > 1 ? splits * m * n : 0);

    // Loops 5 and 4: blocks of c. Every element of one is summed by one thread in one order, whatever the grid.
    const double task_ns = static_cast<double>(m * n) * static_cast<double>(k) * fma_ns / (blocks * splits);
    parallel_for(blocks * splits, task_ns, [&](index_t task) {
        const index_t split = task / blocks, row = task % blocks / grid.columns, column = task % grid.columns;
        const BlockOfC block{m,
                             n,
                             share_begin(row, grid.rows, row_tiles),
                             share_begin(row + 1, grid.rows, row_tiles),
                             row_tiles,
                             share_begin(column, grid.columns, panels),
                             share_begin(column + 1, grid.columns, panels),
                             share_begin(split, splits, k),
                             share_begin(split + 1, splits, k)};
        multiply_block(block, a, b, split == 0 ? bias : nullptr, splits > 1 ? partials.data() + split * m * n : c);
    });
    if (splits == 1) return;
    parallel_for_range(m * n, splits * element_ns, [&](index_t begin, index_t end) {
        std::copy(partials.data() + begin, partials.data() + end, c + begin);
        for (index_t split = 1; split < splits; ++split) {
            const T* const part = partials.data() + split * m * n;
            for (index_t i = begin; i < end; ++i) c[i] += part[i];
        }
    });
}

template void gemm(index_t, index_t, index_t, Matrix<float>, Matrix<float>, const float*, float*);
template void gemm(index_t, index_t, index_t, Matrix<double>, Matrix<double>, const double*, double*);

}  // namespace npconv
