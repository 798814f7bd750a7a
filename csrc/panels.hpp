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
};

/// Up to nr columns. Column j is pixel source + j of the slab if the panel is read in place; if it is packed, the
/// segments say which pixels lie side by side in it.
struct Panel {
    index_t source;
    int first_segment;
    int segments = 0, columns = 0;
    bool source_is_contiguous = true, result_is_contiguous = true;
};

class Panels {
   public:
    std::vector<Panel> list;
    const Segment* segments(const Panel& panel) const { return segments_.data() + panel.first_segment; }

    /// Cuts the pixels of a block in output order. `in_place`: a panel is nr successive pixels of the slab, and where a
    /// row ends among them some of its columns are of no use; else every column is a pixel of the output, and panels
    /// that cross the end of a row have to be packed.
    void cut(const Block& block, const std::vector<Strip>& strips, index_t slab_width, const ResultLayout& results,
             int nr, bool in_place) {
        for (const Strip& strip : strips) {
            for (index_t y = 0; y < strip.rows; ++y) {
                const index_t source_row = strip.source + y * slab_width;
                const index_t result_row = strip.image * results.image_stride + results.first +
                                           (strip.row + y) * results.row_stride + block.col_begin * results.step;
                for (index_t x = 0; x < block.width();) {
                    const index_t source = source_row + x;
                    int column = list.empty() ? nr
                                 : in_place   ? static_cast<int>(std::min<index_t>(source - list.back().source, nr))
                                              : list.back().columns;
                    if (column == nr) {
                        list.push_back({source, static_cast<int>(segments_.size())});
                        column = 0;
                    }
                    const auto length = static_cast<int>(std::min<index_t>(nr - column, block.width() - x));
                    add({source, result_row + x * results.step, column, length}, results.step);
                    x += length;
                }
            }
        }
    }

   private:
    void add(const Segment& segment, index_t step) {
        Panel& panel = list.back();
        if (panel.segments > 0) {
            const Segment& last = segments_.back();
            const bool joined = last.column + last.length == segment.column;
            panel.source_is_contiguous &= joined && last.src + last.length == segment.src;
            panel.result_is_contiguous &= joined && last.dst + last.length == segment.dst;
        }
        panel.result_is_contiguous &= step == 1;
        panel.columns = segment.column + segment.length;
        ++panel.segments;
        segments_.push_back(segment);
    }

    std::vector<Segment> segments_;
};

}  // namespace npconv
