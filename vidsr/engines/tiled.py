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

from vidsr.engines.base import Engine, EngineInfo
from vidsr.engines.strips import Strip, lay_strips
from vidsr.errors import DeviceError, UsageError
from vidsr.types import Frame

SMALLEST_TILE = 64
# Part of the free memory that is planned with: allocators fragment, and other programs live on the device too.
USABLE_SHARE = 0.8
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
    pixels = int(USABLE_SHARE * free_bytes / bytes_per_pixel)
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
        rows = lay_strips(state.height, side_y, overlap, step, scale)
        return rows, lay_strips(state.width, side_x, overlap, step, scale), side_y, side_x

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
