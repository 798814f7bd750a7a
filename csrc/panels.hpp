// The pixels of a block, cut into the panels that the micro-kernel takes: nr columns each.
#pragma once

#include <algorithm>
#include <vector>

#include "slab.hpp"

namespace npconv {

/// Where the results of a correlation go: pixel (y, x) of an image lies at image*image_stride + first + y*row_stride +
/// x*step, in the plane of output channel 0.
struct ResultLayout {
    index_t image_stride, first, row_stride, step;
    bool loose;  ///< whether what lies between two rows may be overwritten
};

/// Up to nr columns of a block: where their pixels lie in the slab, and where their results go.
struct Panel {
    index_t source;  ///< the pixel of column 0
    int columns = 0;
    int first_source, sources = 0;  ///< its segments in the slab ...
    int first_result, results = 0;  ///< ... and in the output
};

class Panels {
   public:
    std::vector<Panel> list;

    const Segment* sources(const Panel& panel) const { return sources_.data() + panel.first_source; }
    const Segment* results(const Panel& panel) const { return results_.data() + panel.first_result; }

    /// Cuts the pixels of a block in output order. `in_place`: a panel is nr successive pixels of the slab, and where a
    /// row ends among them some of its columns are of no use; else every column is a pixel of the output, and panels
    /// that cross the end of a row have to be packed.
    void cut(const Block& block, const std::vector<Strip>& strips, index_t slab_width, const ResultLayout& layout,
             int nr, bool in_place) {
        const auto most = static_cast<std::size_t>(block.rows() * (block.width() / nr + 2));
        list.reserve(most);
        sources_.reserve(most);
        results_.reserve(most);
        for (const Strip& strip : strips) {
            for (index_t y = 0; y < strip.rows; ++y) {
                const index_t source_row = strip.source + y * slab_width;
                const index_t result_row = strip.image * layout.image_stride + layout.first +
                                           (strip.row + y) * layout.row_stride + block.col_begin * layout.step;
                for (index_t x = 0; x < block.width();) {
                    const index_t source = source_row + x;
                    index_t column = nr;
                    if (!list.empty()) column = in_place ? source - list.back().source : list.back().columns;
                    if (column >= nr) {
                        list.push_back({source, 0, int(sources_.size()), 0, int(results_.size()), 0});
                        column = 0;
                    }
                    const index_t length = std::min(nr - column, block.width() - x);
                    Panel& panel = list.back();
                    add(sources_, panel.sources, source, int(column), int(length), 1, false);
                    add(results_, panel.results, result_row + x * layout.step, int(column), int(length), layout.step,
                        layout.loose);
                    panel.columns = int(column + length);
                    x += length;
                }
            }
        }
    }

   private:
    /// Appends a segment to the `count` that the panel has already, or makes the last one longer.
    static void add(std::vector<Segment>& segments, int& count, index_t at, int column, int length, index_t step,
                    bool loose) {
        if (count > 0 && step == 1) {
            Segment& last = segments.back();
            const bool adjoins = last.column + last.length == column;
            if (last.at - last.column == at - column && (adjoins || loose)) {
                last.length = column + length - last.column;
                return;
            }
        }
        segments.push_back({at, column, length});
        ++count;
    }

    std::vector<Segment> sources_, results_;
};

}  // namespace npconv
