#include "gemm.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "workspace.hpp"

namespace npconv {
namespace {

// A task owns a block of c of at most rows_block x columns_block and sums it reduction_block steps at a time, so that
// its packed operands (in float32 220 KiB of a, 512 KiB of b) stay in the L2 cache.
constexpr index_t rows_block = 224;
constexpr index_t columns_block = 512;
constexpr index_t reduction_block = 256;

/// dst[k*width + i] = element (k, first + i) of a matrix whose rows run along the reduction; 0 for i >= count.
template <class T>
void pack(const Matrix<T>& matrix, index_t k, index_t kc, index_t first, index_t count, index_t width, T* dst) {
    if (matrix.transposed) {  // the reduction is contiguous
        kernels_of<T>().pack_transposed(matrix.data + first * matrix.ld + k, matrix.ld, count, kc, dst, width);
    } else {
        for (index_t i = 0; i < kc; ++i, dst += width) {
            const T* from = matrix.data + (k + i) * matrix.ld + first;
            std::copy(from, from + count, dst);
            std::fill(dst + count, dst + width, T(0));
        }
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
    return grid;
}

}  // namespace

template <class T>
void gemm(index_t m, index_t n, index_t k, Matrix<T> a, Matrix<T> b, const T* bias, T* c) {
    const TypedKernels<T>& kernel = kernels_of<T>();
    const int mr = kernel.mr, nr = kernel.nr;
    const index_t row_tiles = ceil_div(m, mr), column_tiles = ceil_div(n, nr);
    if (m == 0 || n == 0) return;
    const Grid grid = choose_grid(row_tiles, column_tiles, mr, nr, get_num_threads());
    const index_t depth = std::min(k, reduction_block);
    a.transposed = !a.transposed;  // pack() wants the reduction first

    // Loops 5 and 4: blocks of c. Every element is summed by one thread in one order, whatever the grid.
    const double task_ns = static_cast<double>(m * n) * static_cast<double>(k) * fma_ns / (grid.rows * grid.columns);
    parallel_for(grid.rows * grid.columns, task_ns, [&](index_t task) {
        const index_t row_block = task / grid.columns, column_block = task % grid.columns;
        const index_t first_row_tile = share_begin(row_block, grid.rows, row_tiles);
        const index_t last_row_tile = share_begin(row_block + 1, grid.rows, row_tiles);
        const index_t first_column_tile = share_begin(column_block, grid.columns, column_tiles);
        const index_t last_column_tile = share_begin(column_block + 1, grid.columns, column_tiles);
        Scratch<T> a_packed((last_row_tile - first_row_tile) * mr * depth);
        Scratch<T> b_packed(depth * nr);
        Scratch<index_t> b_row(depth);
        for (index_t i = 0; i < depth; ++i) b_row[i] = i * nr;
        const auto row_begin = [&](index_t tile) {
            return share_begin(tile, row_tiles, m);
        };  // tiles share the rows evenly

        // Loop 3: the reduction. An empty one runs once, for the bias.
        index_t k0 = 0;
        do {
            const index_t kc = std::min(depth, k - k0);
            T* to = a_packed.data();
            for (index_t tile = first_row_tile; tile < last_row_tile; ++tile) {
                const index_t i = row_begin(tile), rows = row_begin(tile + 1) - i;
                pack(a, k0, kc, i, rows, rows, to);
                to += rows * kc;
            }
            // Loop 2: panels of b, each in the L1 cache while loop 1 passes the tiles of a.
            for (index_t panel = first_column_tile; panel < last_column_tile; ++panel) {
                const index_t j = panel * nr, columns = std::min<index_t>(nr, n - j);
                pack(b, k0, kc, j, columns, nr, b_packed.data());
                const T* from = a_packed.data();
                for (index_t tile = first_row_tile; tile < last_row_tile; ++tile) {
                    const index_t i = row_begin(tile), rows = row_begin(tile + 1) - i;
                    T* out = c + i * n + j;
                    if (k0 == 0 && bias) {
                        for (index_t r = 0; r < rows; ++r) std::copy(bias + j, bias + j + columns, out + r * n);
                    }
                    kernel.gemm_tile[rows](kc, from, b_packed.data(), b_row.data(), out, n, static_cast<int>(columns),
                                           nullptr, k0 > 0 || bias);
                    from += rows * kc;
                }
            }
            k0 += kc;
        } while (k0 < k);
    });
}

template void gemm(index_t, index_t, index_t, Matrix<float>, Matrix<float>, const float*, float*);
template void gemm(index_t, index_t, index_t, Matrix<double>, Matrix<double>, const double*, double*);

}  // namespace npconv
