"""Any engine on overlapping tiles, for frames that do not fit in memory. What a tile computes lives in other engines.

Tiles have one uniform size (good for caches and CUDA graphs), are spread evenly and each has its own inner state. When
memory runs out, the tile is halved and the frames whose results are not out yet are computed again in fresh inner
states: no result is lost or repeated, only the history before them is, as at a scene cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from vidsr.config import SMALLEST_TILE, Tile
from vidsr.engines.base import Engine, EngineInfo
from vidsr.errors import DeviceError, UsageError
from vidsr.runtime.memory import free_memory
from vidsr.types import Frame


@dataclass(frozen=True, slots=True)
class Strip:
    """One tile's place along an axis: its first input pixel, its output pixels, and how far it counts in each.

    `share` says how far it replaces what the strips before it left there, 0..1 in float64.
    """

    start: int
    place: slice
    share: Tensor

    def blend(self, canvas: Tensor, tile: Tensor) -> None:
        """Moves `canvas` (3 x all output pixels x any) towards `tile`; where all tiles agree, not a bit is changed."""
        target = canvas[:, self.place]
        target.add_((tile - target).mul_(self.share[:, None].to(tile)))


def lay_out_spans(length: int, side: int, overlap: int, step: int, scale: int) -> list[Strip]:
    """Evenly spread strips of `side` input pixels over `length`, to be blended in this order.

    Neighbours share at least `overlap` pixels. All start on multiples of `step` (an untiled engine's grid) but the
    last. The outer 3/8 of an overlap count nothing: a tile lacks its surroundings there. In the middle quarter shares
    rise linearly, so that what still differs between two tiles becomes no visible line. Against an untiled recurrent
    network of 12 layers and an overlap of 16 the largest error was 0.00004, with a ramp over the whole overlap 0.004.
    """
    margin, ramp = overlap * scale * 3 / 8, max(overlap * scale / 4, 1.0)
    centre = torch.arange(side * scale, dtype=torch.float64) + 0.5
    total = torch.zeros(length * scale, dtype=torch.float64)
    strips = []
    for start in _starts(length, side, overlap, step):
        weight = torch.ones(side * scale, dtype=torch.float64)
        if start > 0:
            weight = weight.minimum(((centre - margin) / ramp).clamp(0.0, 1.0))
        if start + side < length:
            weight = weight.minimum(((side * scale - centre - margin) / ramp).clamp(0.0, 1.0))
        place = slice(start * scale, (start + side) * scale)
        total[place] += weight
        strips.append(Strip(start, place, torch.where(weight > 0, weight / total[place], 0.0)))
    return strips


def _starts(length: int, side: int, overlap: int, step: int) -> list[int]:
    if side >= length:
        return [0]
    # Rounding a start down by up to step - 1 pixels must not eat into the overlap on its right.
    stride = max(1, side - overlap - (step - 1))
    count = math.ceil((length - side) / stride) + 1
    starts = [(length - side) * index // (count - 1) for index in range(count)]
    return [start // step * step for start in starts[:-1]] + starts[-1:]


# Part of the free memory that is planned with: allocators fragment, and other programs live on the device too.
USABLE_FRACTION = 0.8
# Allocators share no exception type: CUDA has its own, the CPU's, MPS's, cuDNN's and ONNX Runtime's are RuntimeErrors.
MEMORY_MESSAGES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "alloc_failed",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """True if the error says that memory ran out, on whichever device and in whichever library."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(message in text for message in MEMORY_MESSAGES)


def auto_tile(height: int, width: int, bytes_per_pixel: float, free_bytes: int) -> int | None:
    """The largest square tile that should fit, in input pixels, or None if the whole frame does.

    `bytes_per_pixel` is the inner engine's peak memory for each input pixel. The result is an estimate, a multiple of
    16 and at least SMALLEST_TILE; a TiledEngine corrects it downwards if it was too large.
    """
    pixels = int(USABLE_FRACTION * free_bytes / bytes_per_pixel)
    if height * width <= pixels:
        return None
    short = min(height, width)
    # A tile longer than the frame's short side is only as wide as that side, so it may be longer than a square.
    side = pixels // short if pixels >= short * short else math.isqrt(pixels)
    return max(SMALLEST_TILE, side // 16 * 16)


@dataclass(slots=True)
class TiledState:
    """One video's tiles: the inner state of each, row by row, and the input frames whose results are not all out yet.

    `tile` None is the whole frame. The first `fed` of the `waiting` frames have gone into the inner states. A frame's
    results are its own and the new ones up to the next frame: `out` of the oldest waiting frame's are out already, and
    the next `repeated` results of the inner states are among those, since the states started afresh.
    """

    height: int
    width: int
    tile: int | None
    inner: list[Any]
    waiting: list[Frame] = field(default_factory=list)
    fed: int = 0
    out: int = 0
    repeated: int = 0


class TiledEngine:
    """Runs another engine tile by tile and joins the results without a seam; keeps every law the inner engine keeps."""

    def __init__(self, inner: Engine, tile: int | None, overlap: int = 32, smallest: int = SMALLEST_TILE) -> None:
        """Sizes are in input pixels; `tile` counts its overlap, None is the whole frame for as long as it fits.

        Neighbouring tiles share at least `overlap` pixels (half a tile if that is less). After running out of memory a
        tile is halved down to `smallest`; a `tile` below that is a UsageError.
        """
        if tile is not None and tile < smallest:
            raise UsageError(f"A tile of {tile} pixels is too small: use at least {smallest}.")
        if overlap < 0:
            raise UsageError(f"Tiles cannot overlap by {overlap} pixels: use 0 or more.")
        self._inner = inner
        self._overlap = overlap
        self._smallest = smallest
        self._tile = tile
        self._shrinks = 0

    @property
    def info(self) -> EngineInfo:
        """What the inner engine says: tiles change none of it."""
        return self._inner.info

    @property
    def inner(self) -> Engine:
        """The engine that computes the tiles."""
        return self._inner

    def around(self, inner: Engine) -> TiledEngine:
        """The same tiles for another engine."""
        return TiledEngine(inner, self._tile, self._overlap, self._smallest)

    @property
    def tile(self) -> int | None:
        """The tile that new videos start with: the given one, or the last one that memory allowed."""
        return self._tile

    @property
    def shrinks(self) -> int:
        """How often the tile was halved because memory ran out, over all videos."""
        return self._shrinks

    def init_state(self, height: int, width: int) -> TiledState:
        """The state before the first frame; already here every tile gets its inner state."""
        state = TiledState(height, width, self._tile, [])
        self._drain(state, at_end=False)
        return state

    def step(self, frame: Frame, state: TiledState) -> tuple[list[Frame], TiledState]:
        """Takes the next frame; raises DeviceError if memory does not even suffice for the smallest tile."""
        assert frame.image.shape == (3, state.height, state.width), "the frame has another size than the state"
        state.waiting.append(frame)
        return self._drain(state, at_end=False), state

    def flush(self, state: TiledState) -> list[Frame]:
        """Gives the frames still waiting; raises DeviceError as `step` does."""
        return self._drain(state, at_end=True)

    @torch.inference_mode()
    def _drain(self, state: TiledState, at_end: bool) -> list[Frame]:
        """Computes what is waiting, with smaller tiles as often as memory demands; what is out already stays out."""
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
                    assert is_complete, "the inner engine kept frames back at the end"
                return ready
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(state, error)
            # Only here, after the except block, is the failed attempt's traceback gone and with it its tensors.
            torch.cuda.empty_cache()

    def _shrink(self, state: TiledState, error: BaseException) -> None:
        longest = max(state.height, state.width)
        side = min(state.tile or longest, longest)
        if side <= self._smallest:
            raise DeviceError(
                f"The memory is too small for this {state.width}x{state.height} video even in tiles of {side} pixels: "
                "close other programs, choose a smaller model or another device."
            ) from error
        step = self.info.multiple_of
        state.tile = max(self._smallest, math.ceil(side / 2 / step) * step)
        # The attempt may have ended between two tiles, so no inner state can be trusted: all start again.
        state.inner = []
        state.fed = 0
        state.repeated = state.out
        self._tile = state.tile
        self._shrinks += 1

    def _start(self, state: TiledState) -> list[Any]:
        rows, columns, side_y, side_x = self._layout(state)
        return [self._inner.init_state(side_y, side_x) for _ in rows for _ in columns]

    def _layout(self, state: TiledState) -> tuple[list[Strip], list[Strip], int, int]:
        """Where tiles lie, from top to bottom and from left to right, and their height and width."""
        tile = state.tile or max(state.height, state.width)
        side_y, side_x = min(tile, state.height), min(tile, state.width)
        overlap, step, scale = min(self._overlap, tile // 2), self.info.multiple_of, self.info.scale
        rows = lay_out_spans(state.height, side_y, overlap, step, scale)
        return rows, lay_out_spans(state.width, side_x, overlap, step, scale), side_y, side_x

    def _run(self, state: TiledState, frame: Frame | None) -> list[Frame]:
        """Gives one frame to every tile (None: the end) and joins what they give back, side data as of the first."""
        rows, columns, side_y, side_x = self._layout(state)
        if len(rows) == len(columns) == 1:
            return self._run_tile(state, 0, frame)
        scale = self.info.scale
        joined: list[Frame] = []
        bands: list[Tensor] = []
        for index, (row, column) in enumerate(product(rows, columns)):
            part = None
            if frame is not None:
                cut = frame.image[:, row.start : row.start + side_y, column.start : column.start + side_x]
                # A copy of its own: a view kept in an inner state would keep the whole frame alive, once per tile.
                part = frame.with_image(cut.clone(memory_format=torch.contiguous_format))
            given = self._run_tile(state, index, part)
            if index == 0:
                size = (3, state.height * scale, state.width * scale)
                joined = [result.with_image(result.image.new_zeros(size)) for result in given]
            assert len(given) == len(joined), "tiles of one frame must give the same number of results"
            if column is columns[0]:
                bands = [result.image.new_zeros(3, side_y * scale, state.width * scale) for result in given]
            for band, result, canvas in zip(bands, given, joined, strict=True):
                column.blend(band.mT, result.image.mT)
                if column is columns[-1]:
                    row.blend(canvas.image, band)
        # Blending can leave the range by one last bit.
        return [result.with_image(result.image.clamp_(0.0, 1.0)) for result in joined]

    def _run_tile(self, state: TiledState, index: int, frame: Frame | None) -> list[Frame]:
        if frame is None:
            return self._inner.flush(state.inner[index])
        given, state.inner[index] = self._inner.step(frame, state.inner[index])
        return given

    def _release(self, state: TiledState, results: list[Frame]) -> list[Frame]:
        """The results that are not out yet; input frames are let go when all of theirs, new ones included, are out."""
        repeated = min(state.repeated, len(results))
        state.repeated -= repeated
        ready = results[repeated:]
        done, state.out = divmod(state.out + len(ready), self.info.interp)
        assert done + (state.out > 0) <= state.fed, "the inner engine gave more frames than it may"
        del state.waiting[:done]
        state.fed -= done
        return ready


def choose_tile(wanted: Tile, height: int, width: int, bytes_per_pixel: float, device: torch.device) -> int | None:
    """The tile of `--tile`, in input pixels; None for the whole frame."""
    if wanted == "off":
        return None
    if isinstance(wanted, int):
        return wanted
    return auto_tile(height, width, bytes_per_pixel, free_memory(device))
