"""Runs any engine on overlapping tiles, for frames that do not fit in memory.

Tiles have one uniform size (good for caches and CUDA graphs), are spread evenly, and each has its own inner state. They
begin where a cell of the inner engine begins, and their last cells are cut as those of the frame are, so that the inner
engine pads a tile at the frame's edge as it pads the whole frame. When memory runs out, a step down is made: queues are
shortened, the tile is halved, or another form of the engine takes over, at last on the CPU. Frames whose outputs have
not been returned are computed again with fresh inner states. No output is lost or repeated; only the history before
those frames is lost, as at a scene cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from vidsr.config import SMALLEST_TILE, Tile
from vidsr.engines.base import Engine, EngineInfo, Estimating
from vidsr.errors import DeviceError, UsageError
from vidsr.runtime.memory import free_memory, is_out_of_memory
from vidsr.runtime.queues import shorten_queues
from vidsr.types import Frame, MemoryStep


@dataclass(frozen=True, slots=True)
class Span:
    """One tile's extent along an axis: its first input pixel, its output pixels, and its blending weight in each.

    `weight`, 0..1 in float64, is the opacity with which the tile replaces the blend of the spans before it.
    """

    start: int
    place: slice
    weight: Tensor

    def blend(self, canvas: Tensor, tile: Tensor) -> None:
        """Blends `tile` into `canvas` (3 x all output pixels x any); exact to the bit where all tiles agree."""
        target = canvas[:, self.place]
        target.add_((tile - target).mul_(self.weight[:, None].to(tile)))


def lay_out_spans(length: int, side: int, overlap: int, step: int, scale: int) -> list[Span]:
    """Spreads spans of `side` input pixels evenly over `length`, to be blended in this order.

    Neighbors overlap by at least `overlap` pixels. All start on multiples of `step`, the cells of an untiled engine, if
    `side` is that of `side_within`. The outer 3/8 of an overlap have weight 0, because a tile lacks context there.
    In the middle quarter weights rise linearly, which hides seams. With a recurrent network of 12 layers and an overlap
    of 16, the largest error against untiled output was 0.00004; with a ramp over the whole overlap it was 0.004.
    """
    margin, ramp = overlap * scale * 3 / 8, max(overlap * scale / 4, 1.0)
    center = torch.arange(side * scale, dtype=torch.float64) + 0.5
    total = torch.zeros(length * scale, dtype=torch.float64)
    spans = []
    for start in _starts(length, side, overlap, step):
        weight = torch.ones(side * scale, dtype=torch.float64)
        if start > 0:
            weight = weight.minimum(((center - margin) / ramp).clamp(0.0, 1.0))
        if start + side < length:
            weight = weight.minimum(((side * scale - center - margin) / ramp).clamp(0.0, 1.0))
        place = slice(start * scale, (start + side) * scale)
        total[place] += weight
        spans.append(Span(start, place, torch.where(weight > 0, weight / total[place], 0.0)))
    return spans


def _starts(length: int, side: int, overlap: int, step: int) -> list[int]:
    if side >= length:
        return [0]
    # Rounding a start down by up to step - 1 pixels must not reduce the overlap on its right.
    stride = max(1, side - overlap - (step - 1))
    count = math.ceil((length - side) / stride) + 1
    starts = [(length - side) * index // (count - 1) for index in range(count)]
    return [start // step * step for start in starts]


def side_within(tile: int, length: int, step: int) -> int:
    """The largest side of a tile, at most `tile` (or one `step`) and `length`, that differs from `length` by steps."""
    if tile >= length:
        return length
    side = tile - (tile - length) % step
    return side if side > 0 else side + step


# Fraction of free memory to plan with: allocators fragment, and other programs use the device too.
USABLE_FRACTION = 0.8
# Of an output frame while tiles are joined: the frame and, at the most, as much again for a band of it, in float32.
JOINED_BYTES_PER_PIXEL = 2 * 3 * 4


def auto_tile(height: int, width: int, bytes_per_pixel: float, free_bytes: int) -> int | None:
    """The side of the largest tile that should fit in memory, in input pixels, or None if the whole frame does.

    `bytes_per_pixel` is the inner engine's peak memory per input pixel. The result is an estimate, a multiple of 16 and
    at least SMALLEST_TILE; TiledEngine reduces it if it was too large.
    """
    pixels = int(USABLE_FRACTION * free_bytes / bytes_per_pixel)
    if height * width <= pixels:
        return None
    short = min(height, width)
    # A tile longer than the frame's short side is only as wide as that side, so it can be longer than a square one.
    side = pixels // short if pixels >= short * short else math.isqrt(pixels)
    return max(SMALLEST_TILE, side // 16 * 16)


@dataclass(slots=True)
class TiledState:
    """The inner state of each tile, row by row, and the input frames whose outputs have not all been returned.

    `tile` None is the whole frame. The first `fed` of the `waiting` frames have been passed to the inner states. The
    outputs of a frame are its own and the interpolated ones up to the next frame. `out` outputs of the oldest waiting
    frame have been returned, and `returned` of all frames. After a restart of the inner states, their next `repeated`
    outputs are to be dropped.
    """

    height: int
    width: int
    tile: int | None
    inner: list[Any]
    waiting: list[Frame] = field(default_factory=list)
    fed: int = 0
    out: int = 0
    repeated: int = 0
    returned: int = 0


@dataclass(frozen=True, slots=True)
class LighterEngine:
    """Another form of an engine that needs less memory, for when it has run out.

    `build` makes it; it must have the scale, interp and cells of the first one. `words` continue "from here on ...".
    `device` is the one that it runs on, None for that of the frames. `tile` is the tile to begin with, given height and
    width; without it the last one stays.
    """

    words: str
    build: Callable[[], Engine]
    device: torch.device | None = None
    tile: Callable[[int, int], int | None] | None = None


class TiledEngine:
    """Runs another engine tile by tile and blends the tiles without seams; keeps the inner engine's contract.

    `steps` are the steps down that were made because memory ran out, over all videos.
    """

    def __init__(
        self,
        inner: Engine,
        tile: int | None,
        overlap: int | None = None,
        smallest: int = SMALLEST_TILE,
        lighter: Sequence[LighterEngine] = (),
    ) -> None:
        """Sizes are in input pixels. `tile` includes its overlap; None is the whole frame, as long as memory suffices.

        Neighboring tiles share at least `overlap` pixels (half a tile if that is less); None is the inner engine's own
        figure. With 32, secnet-fast differed
        from whole frames by at most 0.003 in a real clip, and beyond the overlap by 0.00001; with 16 by 0.007.

        When memory runs out, the queues of the process are shortened; next time the tile is halved, at most down to
        `smallest`; then the `lighter` engines follow in their order. Raises UsageError for a smaller `tile` or a
        negative `overlap`.
        """
        if tile is not None and tile < smallest:
            raise UsageError(f"a tile of {tile} pixels is too small: use at least {smallest}")
        overlap = inner.info.overlap if overlap is None else overlap
        if overlap < 0:
            raise UsageError(f"tiles cannot overlap by {overlap} pixels: use 0 or more")
        self._inner = inner
        self._overlap = overlap
        self._smallest = smallest
        self._tile = tile
        self._shrinks = 0
        self._lighter = list(lighter)
        self._device: torch.device | None = None
        self._is_relieved = False
        self.steps: list[MemoryStep] = []

    @property
    def info(self) -> EngineInfo:
        """The properties of the inner engine, which tiling does not change."""
        return self._inner.info

    @property
    def inner(self) -> Engine:
        """The engine that computes the tiles."""
        return self._inner

    def around(self, inner: Engine) -> TiledEngine:
        """The same tiles for another engine."""
        return TiledEngine(inner, self._tile, self._overlap, self._smallest, self._lighter)

    @property
    def tile(self) -> int | None:
        """The tile for new videos: the configured one, or the last one that fit in memory."""
        return self._tile

    @property
    def shrinks(self) -> int:
        """Number of times the tile was halved because memory ran out, over all videos."""
        return self._shrinks

    def init_state(self, height: int, width: int) -> TiledState:
        """The initial state, with an inner state for every tile."""
        state = TiledState(height, width, self._tile, [])
        self._drain(state, at_end=False)
        return state

    def step(self, frame: Frame, state: TiledState) -> tuple[list[Frame], TiledState]:
        """Processes the next frame. Raises DeviceError if memory is too small even for the smallest tile."""
        assert frame.image.shape == (3, state.height, state.width), "the frame has another size than the state"
        state.waiting.append(frame)
        return self._drain(state, at_end=False), state

    def flush(self, state: TiledState) -> list[Frame]:
        """Returns all pending outputs. Raises DeviceError as `step` does."""
        return self._drain(state, at_end=True)

    @torch.inference_mode()
    def _drain(self, state: TiledState, at_end: bool) -> list[Frame]:
        """Computes all waiting frames, with as many steps down as needed; outputs already returned stay valid."""
        ready: list[Frame] = []
        while True:
            try:
                if not state.inner:
                    state.inner = self._start(state)
                while state.fed < len(state.waiting):
                    results = self._run(state, state.waiting[state.fed])
                    state.fed += 1
                    ready += self._release(state, results)
                if at_end:
                    ready += self._release(state, self._run(state, None))
                    is_complete = not state.waiting or (len(state.waiting), state.out) == (1, 1)
                    assert is_complete, "the inner engine has pending frames after its flush"
                return ready
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._check_ladder(state, error)
            # After the except block, because only then the failed attempt's traceback and its tensors are released.
            # The attempt may have failed between two tiles, so the inner states are inconsistent: restart them all.
            state.inner = []
            state.fed = 0
            state.repeated = state.out
            torch.cuda.empty_cache()
            self._step_down(state)

    def _side(self, state: TiledState) -> int:
        """The side of the tiles that are in use, at most the longer side of the frame."""
        longest = max(state.height, state.width)
        return min(state.tile or longest, longest)

    def _check_ladder(self, state: TiledState, error: BaseException) -> None:
        """Raises DeviceError if no step down is left."""
        side = self._side(state)
        if side <= self._smallest and self._is_relieved and not self._lighter:
            raise DeviceError(
                f"not enough memory for this {state.width}x{state.height} video even in tiles of {side} pixels: "
                "close other programs, choose a smaller model or another device"
            ) from error

    def _step_down(self, state: TiledState) -> None:
        """Makes the next step to less memory, and notes it in `steps`."""
        if not self._is_relieved:
            self._is_relieved = True
            if shorten_queues():
                self._note(state, "fewer frames wait in queues")
                return
        side, step = self._side(state), self.info.multiple_of
        if side > self._smallest:
            state.tile = max(self._smallest, math.ceil(side / 2 / step) * step)
            self._shrinks += 1
            self._note(state, f"the tile is {state.tile} pixels")
        elif self._lighter:
            self._use_lighter(state)
        self._tile = state.tile

    def _use_lighter(self, state: TiledState) -> None:
        """Takes the next lighter engine, or if memory is too short to build it, the one after it."""
        lighter = self._lighter.pop(0)
        try:
            inner = lighter.build()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._check_ladder(state, error)
            return
        self._inner, self._device = inner, lighter.device
        if lighter.tile is not None:
            state.tile = lighter.tile(state.height, state.width)
        self._note(state, lighter.words)

    def _note(self, state: TiledState, words: str) -> None:
        self.steps.append(MemoryStep(state.returned, words))

    def _start(self, state: TiledState) -> list[Any]:
        rows, columns, side_y, side_x = self._layout(state)
        return [self._inner.init_state(side_y, side_x) for _ in rows for _ in columns]

    def _layout(self, state: TiledState) -> tuple[list[Span], list[Span], int, int]:
        """Rows of tiles from top to bottom, columns from left to right, and the height and width of a tile."""
        tile = state.tile or max(state.height, state.width)
        step, scale = self.info.multiple_of, self.info.scale
        side_y, side_x = side_within(tile, state.height, step), side_within(tile, state.width, step)
        overlap = min(self._overlap, tile // 2)
        rows = lay_out_spans(state.height, side_y, overlap, step, scale)
        return rows, lay_out_spans(state.width, side_x, overlap, step, scale), side_y, side_x

    def _run(self, state: TiledState, frame: Frame | None) -> list[Frame]:
        """Passes one frame to every tile (None: flush) and joins the outputs, with the side data of the first tile.

        What an engine estimates of a whole frame it gets from the whole frame, so that all tiles agree.
        """
        rows, columns, side_y, side_x = self._layout(state)
        if frame is not None and self._device is not None:
            frame = frame.with_image(frame.image.to(self._device))
        if len(rows) == len(columns) == 1:
            return self._run_tile(state, 0, frame)
        scale = self.info.scale
        joined: list[Frame] = []
        bands: list[Tensor] = []
        if frame is not None and isinstance(self._inner, Estimating):
            frame = replace(frame, levels=self._inner.estimate_levels(frame.image))
        for index, (row, column) in enumerate(product(rows, columns)):
            part = None
            if frame is not None:
                cut = frame.image[:, row.start : row.start + side_y, column.start : column.start + side_x]
                # A copy: a view stored in an inner state would keep the whole frame alive.
                part = frame.with_image(cut.clone(memory_format=torch.contiguous_format))
            results = self._run_tile(state, index, part)
            if index == 0:
                size = (3, state.height * scale, state.width * scale)
                joined = [result.with_image(result.image.new_zeros(size)) for result in results]
            assert len(results) == len(joined), "all tiles must return the same number of frames"
            if column is columns[0]:
                bands = [result.image.new_zeros(3, side_y * scale, state.width * scale) for result in results]
            for band, result, canvas in zip(bands, results, joined, strict=True):
                column.blend(band.mT, result.image.mT)
                if column is columns[-1]:
                    row.blend(canvas.image, band)
        # Blending can exceed the range by one last bit.
        return [result.with_image(result.image.clamp_(0.0, 1.0)) for result in joined]

    def _run_tile(self, state: TiledState, index: int, frame: Frame | None) -> list[Frame]:
        if frame is None:
            return self._inner.flush(state.inner[index])
        results, state.inner[index] = self._inner.step(frame, state.inner[index])
        return results

    def _release(self, state: TiledState, results: list[Frame]) -> list[Frame]:
        """Drops repeated outputs, and the input frames all of whose outputs have been returned.

        Outputs of an engine on another device are moved to that of the frames.
        """
        if self._device is not None and results:
            home = state.waiting[0].image.device
            results = [result.with_image(result.image.to(home)) for result in results]
        repeated = min(state.repeated, len(results))
        state.repeated -= repeated
        ready = results[repeated:]
        state.returned += len(ready)
        done, state.out = divmod(state.out + len(ready), self.info.interp)
        assert done + (state.out > 0) <= state.fed, "the inner engine returned too many frames"
        del state.waiting[:done]
        state.fed -= done
        return ready


def run_in_tiles(
    run: Callable[[Tensor], Tensor], image: Tensor, sides: tuple[int, int], overlap: int, scale: int
) -> Tensor:
    """Runs a network that takes images up to one size only on a larger one, 1 x 3 x h x w to 1 x 3 x H x W.

    `sides` are the height and width of that size, and `overlap` that of neighboring tiles, all in input pixels.
    """
    height, width = image.shape[-2:]
    side_y, side_x = min(sides[0], height), min(sides[1], width)
    rows = lay_out_spans(height, side_y, min(overlap, side_y // 2), 1, scale)
    columns = lay_out_spans(width, side_x, min(overlap, side_x // 2), 1, scale)
    if len(rows) == len(columns) == 1:
        return run(image)
    canvas = image.new_zeros(3, scale * height, scale * width)
    for row in rows:
        band = image.new_zeros(3, scale * side_y, scale * width)
        for column in columns:
            cut = image[..., row.start : row.start + side_y, column.start : column.start + side_x]
            column.blend(band.mT, run(cut)[0].mT)
        row.blend(canvas, band)
    return canvas[None]


def choose_tile(
    wanted: Tile, height: int, width: int, bytes_per_pixel: float, device: torch.device, scale: int
) -> int | None:
    """The tile side for `--tile`, in input pixels; None for the whole frame.

    Beside the network in a tile, the frame into which tiles are joined, `scale` times as large, has to fit, and a band
    of it. Raises DeviceError if not even that frame fits.
    """
    if wanted == "off":
        return None
    if isinstance(wanted, int):
        return wanted
    free = free_memory(device)
    if auto_tile(height, width, bytes_per_pixel, free) is None:
        return None
    joined = JOINED_BYTES_PER_PIXEL * scale**2 * height * width
    if joined // 2 > free:
        raise DeviceError(
            f"not enough memory for frames of {width}x{height} pixels, which the model enlarges by {scale}: each "
            f"result takes {joined / 2 / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; choose a model with a "
            "smaller scale (`vidsr models list`) or a smaller input"
        )
    return auto_tile(height, width, bytes_per_pixel, max(0, free - joined))
