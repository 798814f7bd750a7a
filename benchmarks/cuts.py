"""Into how many tasks an operator's parallel loops are cut: the main lines of csrc/, followed for the shapes measured.

Square float32 convolutions without groups or dilation, with the register tiles of AVX-512; the smaller loops that pack
weights and add partial sums are there, too.  Names are those of the C++.  A change there must be followed here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from shapes import Conv, Pool

import npconv

MR, NR, LANES = 14, 32, 16  # kernels/avx512.cpp
UNIT = npconv.build_info()["isa_in_use"] == "amx"  # multiplies tiles of bfloat16
FMA_NS, ELEMENT_NS, THREAD_NS = 0.02, 0.5, 5000.0  # parallel.hpp
SLAB_ELEMENTS = 1 << 16  # slab.hpp
SPLITTING = 50.0  # winograd_form.cpp


class Loop(NamedTuple):
    """One parallel_for: its tasks, and the nanoseconds that the C++ expects all of them to take."""

    tasks: int
    ns: float


class Correlation(NamedTuple):
    """What a forward pass, or one phase of a data gradient, is (correlation.hpp): rows are those of all images."""

    rows: int
    cols: int
    c: int
    k: int
    taps_v: int
    taps_h: int
    phases: int
    reach_v: int
    reach_h: int

    @property
    def taps(self) -> int:
        return self.taps_v * self.taps_h

    def rows_within(self, width: int) -> int:
        return max(SLAB_ELEMENTS // (width + self.reach_h) // max(self.phases, 1) - self.reach_v, 1)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def clamp(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def off_power_of_two(n: int) -> int:
    return ceil_div(n, LANES) * LANES + LANES


def grid_blocks(rows: int, cols: int, most: int) -> int:
    """BlockGrid of slab.hpp."""
    col_blocks = ceil_div(cols, most)
    row_blocks = ceil_div(rows, max(most // ceil_div(cols, col_blocks), 1))
    return ceil_div(rows, ceil_div(rows, row_blocks)) * col_blocks


def balanced_blocks(rows: int, cols: int, most: int, threads: int, whole_rows: bool = False) -> int:
    """balanced_grid of slab.hpp."""
    most = max(most, cols) if whole_rows else most
    blocks = ceil_div(rows * cols, most)
    if 1 < blocks < 8 * threads:
        most = ceil_div(rows * cols, max((2 * blocks + threads) // (2 * threads), 1) * threads)
        most = most if most < cols and not whole_rows else ceil_div(most, cols) * cols
    return grid_blocks(rows, cols, most)


class Form(NamedTuple):
    """WinogradForm of kernels.hpp."""

    kernel: int
    stride: int
    tile: int

    @property
    def elements(self) -> int:
        return (self.stride * (self.tile - 1) + self.kernel) ** 2


FORMS = [
    *(Form(2, 1, 4), Form(3, 1, 2), Form(3, 1, 4), Form(3, 1, 5), Form(3, 1, 3), Form(3, 2, 2)),
    *(Form(4, 1, 4), Form(4, 2, 2), Form(5, 1, 2), Form(5, 1, 3), Form(5, 2, 2)),
]


def direct_cost(s: Conv) -> float:
    steps = s.kernel**2 * s.c * ((0.9 if s.kernel == 2 else 1.5) * s.k + 9)
    return s.out_size**2 * steps + 10000 * s.out_size


def direct_weight_cost(s: Conv) -> float:
    return s.out_size**2 * s.kernel**2 * s.c * ceil_div(s.k, 16) * 16 / 0.45


def winograd_form(s: Conv) -> Form | None:
    return cheapest_form(s, s, direct_cost(s), (1.1, 22, 600))


def winograd_weight_form(s: Conv) -> Form | None:
    return cheapest_form(s, s, direct_weight_cost(s), (1.15, 20, 300))


def phases(s: Conv) -> Conv:
    """shape_of_phases of conv_phases.cpp."""
    taps = ceil_div(s.kernel, s.stride)
    return Conv(s.name, s.n, s.c * s.stride**2, s.out_size + taps - 1, s.k, taps)


def phases_form(s: Conv, splitting: float = SPLITTING) -> Form | None:
    """phases_form of conv_phases.hpp."""
    others = s.stride == 1 or s.out_size < 10 or winograd_form(s)
    return None if others else cheapest_form(phases(s), s, direct_cost(s), (1.1, 22, 600), splitting)


def phases_data_form(s: Conv) -> Form | None:
    return phases_form(s, 0)


def phases_weight_form(s: Conv) -> Form | None:
    others = s.stride == 1 or s.out_size < 10 or winograd_weight_form(s)
    return None if others else cheapest_form(phases(s), s, direct_weight_cost(s), (1.15, 20, 300), SPLITTING)


def cheapest_form(
    s: Conv, whole: Conv, direct: float, element: tuple[float, float, float], splitting: float = 0
) -> Form | None:
    """choose_form of winograd_form.cpp; `whole` is the convolution itself, of which `s` may be that of the phases."""
    if s.c < 12 or s.k < 16:
        return None
    c, k = ceil_div(s.c, 16) * 16, ceil_div(s.k, 16) * 16
    product, transforms, rest = element
    multiplications = whole.kernel**2 / (1 if s is whole else whole.stride**2)
    costs: dict[Form | None, float] = {None: direct}
    for form in FORMS:
        saves_little = 2 * form.tile**2 * multiplications < 3 * form.elements
        much_else = splitting > 0 or form.elements * s.c * s.k > 1 << 20
        if (s.kernel, s.stride) == (form.kernel, form.stride) and not (saves_little and much_else):
            elements = ceil_div(s.out_size, form.tile) ** 2 * form.elements
            size_cost = 1.15 if form.stride == 1 and form.elements > 36 else 1
            costs[form] = elements * (product * c * k + transforms * (c + k) + rest) * size_cost
            costs[form] += s.out_size**2 * s.c * splitting
    return min(costs, key=lambda form: costs[form])


def winograd_loops(n: int, in_size: int, out_size: int, c: int, k: int, form: Form, threads: int) -> list[Loop]:
    """winograd_correlate."""
    tile, elements, panels, steps = form.tile, form.elements, ceil_div(k, NR), ceil_div(c, 128)
    weights = panels * steps * elements * off_power_of_two(ceil_div(c, steps) * NR)
    tiles, in_tiles, unit = ceil_div(out_size, tile), ceil_div(in_size, tile), 1
    # The tiles of the input do.
    scatter = form.stride == 1 and 6 * in_tiles**2 <= 5 * tiles**2 and in_tiles**2 <= 128
    if scatter:
        tiles = unit = in_tiles
    most = max((96 << 10) // (elements * off_power_of_two(c)), 64 if weights > 1 << 20 else 28)
    most = max(most // unit, 1)
    most = max(most, tiles) if tiles <= 2 * most else most
    blocks = balanced_blocks(n * tiles // unit, tiles, most, threads, scatter)
    parts = clamp(threads // blocks, 1, panels)
    loops = [Loop(blocks * parts, n * tiles**2 * elements * c * k * FMA_NS)]
    if blocks > threads and weights <= 4 << 20:
        loops.insert(0, Loop(panels * steps, weights * ELEMENT_NS))
    return loops


def useful_threads(ns: float, threads: int) -> int:
    """useful_threads of parallel.hpp."""
    return clamp(int(ns / THREAD_NS), 1, threads)


def channels_loops(c: Correlation, threads: int) -> list[Loop]:
    """correlate_along_channels, of conv_channels.cpp."""
    work = c.rows * c.cols * c.k * c.c * c.taps * FMA_NS
    threads = useful_threads(work, threads)
    panels = ceil_div(c.k, NR)
    at_once = min(panels, (1 << 16) // (64 * NR))
    pixels = min(512, (1 << 16) // (at_once * NR), c.rows_within(min(c.cols, 512)) * c.cols)
    share = pixels if panels > 1 else ceil_div(c.rows * c.cols, threads)
    blocks = balanced_blocks(c.rows, c.cols, min(pixels, share), threads)
    tasks = blocks * clamp(max(threads // blocks, 1), ceil_div(panels, at_once), panels)
    pack = Loop(panels, panels * NR * c.c * c.taps * ELEMENT_NS)
    return [*([pack] if tasks > threads else []), Loop(tasks, work)]


def gemm_loops(c: Correlation, threads: int) -> list[Loop]:
    """correlate_gemm and choose_cut, of conv.cpp."""
    tiles, width = ceil_div(c.k, MR), min(c.cols, 16 * NR)
    runs, tile_rows = 1 + NR / width, c.k / tiles
    scatter = 25 * runs * tile_rows / (c.c * c.taps + 1)
    cuts: dict[int, float] = {}  # the shortest time by number of tasks
    groups = 1
    while groups <= min(tiles, threads):
        for panels in range(1, 17):
            block_rows = min(max(panels * NR // width, 1), c.rows, c.rows_within(width))
            tasks = ceil_div(c.rows, block_rows) * ceil_div(c.cols, width) * groups
            fill = 8 * (block_rows + c.reach_v) * (width + c.reach_h) / (NR * (c.taps + 1))
            packed = ceil_div(block_rows * width, NR), max(tile_rows, 4), 4 + 2 * runs
            in_place = ceil_div(block_rows * (width + c.reach_h) - c.reach_h, NR), max(tile_rows, 4) + scatter, 0
            for columns, tile, pack in (packed, in_place):
                time = ceil_div(tasks, threads) * (columns * (ceil_div(tiles, groups) * tile + pack) + fill)
                cuts[tasks] = min(time, cuts.get(tasks, time))
        groups *= 2
    weights = Loop(tiles, c.k * c.c * c.taps * ELEMENT_NS)
    return [weights, Loop(min(cuts, key=lambda n: cuts[n]), c.rows * c.cols * c.k * c.c * c.taps * FMA_NS)]


def unit_loops(c: Correlation, threads: int) -> list[Loop]:
    """correlate_1x1 of conv_1x1.cpp."""
    tiles, steps = ceil_div(c.k, NR), ceil_div(c.c, NR)
    most = max((48 << 10) // (ceil_div(steps, ceil_div(c.c, 384)) * NR // 2), 2 * NR)
    blocks = balanced_blocks(c.rows, c.cols, most, threads)
    weights = Loop(tiles, tiles * steps * 3 * NR * NR // 2 * ELEMENT_NS)
    return [weights, Loop(blocks * clamp(threads // blocks, 1, tiles), c.rows * c.cols * c.k * c.c * FMA_NS / 2)]


def suits_windows(c: Correlation) -> bool:
    """conv_windows.hpp."""

    def share(n: int, unit: int) -> float:
        return n / (ceil_div(n, unit) * unit)

    if not UNIT or c.taps <= 1 or c.k < NR:
        return False
    row = c.cols - 1 + ceil_div(c.taps_h, math.isqrt(c.phases))
    return share(c.taps_h * c.c, NR) >= 0.7 and (10 * c.cols >= 7 * row or share(c.cols, LANES) >= 0.5)


def windows_loops(c: Correlation, threads: int) -> list[Loop]:
    """correlate_windows of conv_windows.cpp."""
    panels, stride = ceil_div(c.k, NR), math.isqrt(c.phases)
    channels = c.c if c.c * c.taps <= 1200 else min(max(1200 // c.taps // NR, 1) * NR, c.c)
    row_pixels = min(c.cols, 512) * stride + c.taps_h - 1
    slab_rows = max(((160 << 10) // (channels + channels % 2) // row_pixels - c.taps_v + 1) // stride, 1)
    pixels = min(512, (1 << 16) // (min(panels, 32) * NR), slab_rows * c.cols)
    blocks = balanced_blocks(c.rows, c.cols, pixels, threads)
    terms = ceil_div(c.taps_h * channels, NR) * NR * c.taps_v * ceil_div(c.c, channels)
    weights = Loop(panels, panels * 3 * NR * terms // 2 * ELEMENT_NS)
    work = c.rows * c.cols * c.k * c.c * c.taps * FMA_NS / 2
    return [weights, Loop(blocks * clamp(threads // blocks, 1, panels), work)]


def partial_sums(s: Conv, size: int, shares: int, blocks: int) -> int:
    """partial_sums of conv_weight.cpp."""
    wanted, memory = max((1 << 18) // size, ceil_div(64, shares)), max(1 << 20, 3 * s.k * s.c * s.kernel**2) // size
    return clamp(min(wanted, memory, blocks), 1, 64)


def unit_weight_gradient_loops(s: Conv, threads: int) -> list[Loop]:
    """backward_weight_1x1 of conv_1x1.cpp."""
    tiles, panels, pixels = ceil_div(s.c, NR), ceil_div(s.k, NR), s.n * s.out_size**2
    size = tiles * panels * NR * NR
    splits = partial_sums(s, size, tiles, s.n * ceil_div(s.out_size**2, 256))
    tasks = splits * clamp(ceil_div(2 * threads, splits), 1, tiles)
    return [Loop(tasks, pixels * s.k * s.c * FMA_NS / 2), Loop(tiles * panels, splits * size * ELEMENT_NS)]


def images_by_batch(s: Conv) -> int:
    """conv_batch.hpp."""
    reduction, plane = s.c * s.kernel**2, (s.size + 2 * s.padding) ** 2
    suits = s.stride == 1 and s.kernel > 1 and reduction <= 256 and (reduction >= 16 or s.k <= 8)
    suits = suits and 4 < s.k <= 24 and max(s.c, min(s.k, MR)) * plane <= 1 << 14
    rest = s.n % NR
    return 0 if not suits else s.n if 4 * rest >= 3 * NR else s.n - rest


def deal(groups: int, most_parts: int, threads: int) -> int:
    """The tasks of Deal, of conv_batch.cpp."""
    rest = groups % threads
    return groups - rest + rest * clamp(threads // max(rest, 1), 1, most_parts)


def batch_loops(s: Conv, channels: int, threads: int) -> list[Loop]:
    """conv2d_forward_by_batch and conv2d_backward_data_by_batch; what is left of the images is not counted."""
    images = images_by_batch(s)
    groups, least = ceil_div(images, NR), ceil_div(channels, MR)
    tiles = clamp(ceil_div(threads, groups), least, max(least, channels // 4))
    work = images * s.out_size**2 * s.k * s.c * s.kernel**2 * FMA_NS
    return [Loop(deal(groups, tiles, threads), work)]


def correlate_loops(c: Correlation, threads: int) -> list[Loop]:
    if UNIT and c.taps == 1 and c.c >= NR and c.k >= NR:
        return unit_loops(c, threads)
    if suits_windows(c):
        return windows_loops(c, threads)
    terms = c.c * c.taps
    pays = terms >= 256 or (c.cols < 64 and 2 * terms >= 3 * c.k)
    suits_channels = 4 * c.k >= 3 * ceil_div(c.k, LANES) * LANES and c.taps > 1 and pays
    return channels_loops(c, threads) if suits_channels else gemm_loops(c, threads)


def forward_loops(s: Conv, threads: int) -> list[Loop]:
    form = winograd_form(s)
    if not form and images_by_batch(s):
        return batch_loops(s, s.k, threads)
    slots, reach = min(s.kernel, s.stride), (s.kernel - 1 - s.padding) // s.stride - -s.padding // s.stride
    rows, cols = s.n * s.out_size, s.out_size
    if s.kernel == s.stride == 1:  # in_one_row
        rows, cols = s.n, s.out_size**2
    c = Correlation(rows, cols, s.c, s.k, s.kernel, s.kernel, slots**2, reach, reach)
    of_phases = None if s.c >= 8 and suits_windows(c) else phases_form(s)
    if of_phases:
        p = phases(s)
        return winograd_loops(p.n, p.size, p.out_size, p.c, p.k, of_phases, threads)
    if form and (form.stride == 1 or not suits_windows(c)):
        return winograd_loops(s.n, s.size, s.out_size, s.c, s.k, form, threads)
    return correlate_loops(c, threads)


def data_gradient_loops(s: Conv, threads: int) -> list[Loop]:
    if s.stride == 1 and (form := winograd_form(s)):
        return winograd_loops(s.n, s.out_size, s.size, s.k, s.c, form, threads)
    if s.c > 4 and images_by_batch(s):
        return batch_loops(s, s.c, threads)
    if form := phases_data_form(s):
        p = phases(s)
        return winograd_loops(p.n, p.out_size, p.size, p.k, p.c, form, threads)
    if s.c <= 4 and s.k >= 4 * s.c:  # conv_taps.cpp
        tasks = s.n * min(ceil_div(s.c * s.size**2, SLAB_ELEMENTS), s.size)
        return [Loop(tasks, s.n * s.out_size**2 * s.c * s.kernel**2 * (s.k * FMA_NS + ELEMENT_NS))]
    if s.kernel == s.stride == 1:
        return correlate_loops(Correlation(s.n, s.size**2, s.k, s.c, 1, 1, 1, 0, 0), threads)
    axes = []  # of every phase: its pixels and its taps
    for phase in range(s.stride):
        first = (phase - s.padding) % s.stride
        axes.append((len(range(first, s.size, s.stride)), len(range(phase, s.kernel, s.stride))))
    loops: list[Loop] = []
    for rows, v in axes:
        for cols, h in axes:
            phase_shape = Conv("", s.n, s.k, rows + v - 1, s.c, v)
            if rows and (rows, v) == (cols, h) and s.stride > 1 and (form := winograd_form(phase_shape)):
                loops += winograd_loops(s.n, s.out_size, rows, s.k, s.c, form, threads)
            elif rows * cols:
                reach_v, reach_h = max(v - 1, 0), max(h - 1, 0)
                loops += correlate_loops(Correlation(s.n * rows, cols, s.k, s.c, v, h, 1, reach_v, reach_h), threads)
    return loops


def weight_gradient_loops(s: Conv, threads: int) -> list[Loop]:
    """backward_weight of conv_weight.cpp, and winograd_backward_weight."""
    form = winograd_weight_form(s)
    if not form and (form := phases_weight_form(s)):
        s = phases(s)
    if form:
        size, tiles = s.k * s.c * s.kernel**2, ceil_div(s.out_size, form.tile)
        elements, chunks = form.elements, ceil_div(s.c, 64) * ceil_div(s.k, 64)
        ld_x, ld_dy = off_power_of_two(min(s.c, 64)), ceil_div(min(s.k, 64), NR) * NR + LANES
        sums = off_power_of_two(min(s.c, 64) * ld_dy)
        blocks = grid_blocks(s.n * tiles, tiles, clamp(((352 << 10) // elements - sums) // (ld_x + ld_dy), 16, 64))
        few, memory = min(16 // chunks, ceil_div(blocks, 2)), max(1 << 20, 3 * size) // size
        splits = 1
        while 2 * splits <= min(max(few, blocks // 8), memory, 64):
            splits *= 2
        tasks = splits * chunks
        add = ceil_div(size, max(int(THREAD_NS / (splits * ELEMENT_NS)), 1))
        work = s.n * tiles**2 * elements * s.k * s.c * FMA_NS
        return [Loop(tasks, work), Loop(add, add * THREAD_NS)]
    if images := images_by_batch(s):
        splits = min(ceil_div(images, NR), 64)
        work = images * s.out_size**2 * s.k * s.c * s.kernel**2 * FMA_NS
        return [Loop(deal(splits, ceil_div(s.k, 4), threads), work)]
    one_row = s.kernel == s.stride == 1
    if UNIT and one_row and s.c * s.k >= 48 * (s.c + s.k):
        return unit_weight_gradient_loops(s, threads)
    rows, cols = (s.n, s.out_size**2) if one_row else (s.n * s.out_size, s.out_size)
    reach = (s.kernel - 1 - s.padding) // s.stride - -s.padding // s.stride
    slots, width = min(s.kernel, s.stride) ** 2, min(cols, 256)
    within = max(SLAB_ELEMENTS // (width + reach) // slots - reach, 1)
    block_rows = clamp(min(256 // width, within), 1, rows)
    blocks = ceil_div(rows, block_rows) * ceil_div(cols, width)
    tap_rows, panels = s.c * s.kernel**2, ceil_div(s.k, NR)
    partial = (1 + tap_rows) * panels * NR
    splits = partial_sums(s, partial, ceil_div(s.c, 16), blocks)
    out_rows = s.n if one_row else s.out_size
    strips = (block_rows + out_rows - 2) // out_rows + 1
    plane = (block_rows + strips * reach) * (width + reach) * slots
    most_channels = clamp((64 << 10) // ((plane // 16 | 1) * 16 + 32), 1, s.c)
    chunks = max(ceil_div(s.c, most_channels), min(ceil_div(4 * threads, splits), ceil_div(s.c, 16)))
    work = rows * cols * s.k * (1 + tap_rows) * FMA_NS
    return [Loop(splits * chunks, work), Loop(panels, splits * partial * ELEMENT_NS)]


def pool_loops(s: Pool, kind: str) -> list[Loop]:
    """pool.cpp."""
    planes, rows, width = s.n * s.c, s.n * s.c * s.out_size, min(s.out_size, 1024)
    if kind == "pool backward":
        ns = (s.size**2 + 2 * s.out_size**2) * ELEMENT_NS
        tasks = ceil_div(planes, max(int(THREAD_NS / ns), 1))
        return [Loop(tasks, tasks * THREAD_NS)]
    block_rows = clamp(1024 // width, 1, rows)  # a slab of these shapes holds more
    task_rows = ceil_div(max((1 << 15) // width, 1), block_rows) * block_rows
    return [Loop(ceil_div(rows, task_rows) * ceil_div(s.out_size, width), rows * width * s.kernel**2 * ELEMENT_NS)]


def loops(kind: str, shape: Conv | Pool, threads: int) -> list[Loop]:
    """Return the parallel loops of a row, in their order; of the backward pass of a convolution dx, then dweight."""
    if isinstance(shape, Pool):
        return pool_loops(shape, kind)
    if kind == "conv forward":
        return forward_loops(shape, threads)
    return data_gradient_loops(shape, threads) + weight_gradient_loops(shape, threads)
