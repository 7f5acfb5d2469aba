"""SECNet on windows that follow faces, each with a past of its own; those of one size are computed together.

A window may move and change its size by whole pixels: its past moves with it, and where it shows new ground there is
none, as at the first frame. So nothing is resampled, which would cost the detail that is to be restored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidsr.config import ComputeConfig, Precision
from vidsr.engines.base import prepared
from vidsr.engines.recurrent import Known, advance, look, plain
from vidsr.engines.select import Selection, select, selected_card
from vidsr.models.loading import load_network
from vidsr.nets.secnet.flow import Pyramid, stack_pyramids
from vidsr.nets.secnet.network import RecurrentState, SECNet
from vidsr.runtime.overlap import Lanes
from vidsr.types import Frame, Window

# Pixels of a face's first window up to which a mirrored network sees it twice. With two faces of 105 pixels, whose
# windows are 30 % of a picture of 640x360, the second look alone would take a third of the film's time again, for
# 0.09 dB of a gain of 0.4 (moved photographs, faces of 64 and 72 pixels).
MOST_MIRRORED = 144 * 144


@dataclass(frozen=True, slots=True)
class FaceStream:
    """One face's memory: its window, the frames still needed, oldest first, how many of them are done, the past.

    `is_mirrored`: it is seen twice, once mirrored; that stays so as long as the stream lasts.
    """

    window: Window
    is_mirrored: bool
    known: tuple[Known, ...] = ()
    done: int = 0
    past: RecurrentState | None = None


Streams = Mapping[int, FaceStream]
Enlarged = tuple[Window, Tensor]


class FaceEngine:
    """Runs a SECNet beside the film, on a window for each face. All memory is in the streams that the caller holds.

    `quarters`: quarter turns counterclockwise that bring the film upright; the network sees upright faces.
    """

    def __init__(self, network: SECNet, device: torch.device, precision: str, quarters: int = 0) -> None:
        """`network` is copied, not changed. `precision`: of the convolutions."""
        self._network = prepared(network, device, precision)
        self._single = copy.copy(self._network)  # the same weights
        self._single.config = replace(network.config, mirrored=False)
        self._lanes = Lanes(device, 0.5)
        self._quarters = quarters
        self._keep = -min(network.config.offsets)

    @property
    def lookahead(self) -> int:
        """How many later frames a result needs."""
        return self._network.config.lookahead

    def init_state(self) -> Streams:
        """No face is known."""
        return {}

    @torch.inference_mode()
    def step(
        self, frame: Frame, windows: Mapping[int, Window], streams: Streams
    ) -> tuple[dict[int, Enlarged], dict[int, FaceStream]]:
        """Takes a frame and its faces' windows by track; gives what is ready of the frame `lookahead` before.

        A stream begins with its face's first frame; to end one, `flush` it: only the tracks of `windows` go on. With
        each picture, 3 x H x W in 0..1, comes the window that it shows, the newest one of its face.
        """
        after = {track: self._joined(frame, window, streams.get(track)) for track, window in windows.items()}
        due = {track: stream for track, stream in after.items() if len(stream.known) - stream.done > self.lookahead}
        ready, advanced = self._advance(due)
        return ready, after | advanced

    @torch.inference_mode()
    def flush(self, streams: Streams, tracks: Iterable[int]) -> dict[int, list[Enlarged]]:
        """The faces still waiting of these tracks, in order; their last frame stands for those that would follow."""
        rest = {track: streams[track] for track in tracks}
        ready: dict[int, list[Enlarged]] = {track: [] for track in rest}
        while rest := {track: stream for track, stream in rest.items() if stream.done < len(stream.known)}:
            pictures, rest = self._advance(rest)
            for track, picture in pictures.items():
                ready[track].append(picture)
        return ready

    def _advance(self, streams: Streams) -> tuple[dict[int, Enlarged], dict[int, FaceStream]]:
        """The next picture of each stream, and the streams after it; equal ones go through the network together."""
        groups: dict[tuple[int, ...], dict[int, FaceStream]] = {}
        for track, stream in sorted(streams.items()):
            size = stream.window.height, stream.window.width
            # Bidirectional encodings remember more and more features at first.
            remembered = -1 if stream.past is None else len(stream.past.memory)
            key = (*size, stream.is_mirrored, len(stream.known), stream.done, remembered)
            groups.setdefault(key, {})[track] = stream
        ready: dict[int, Enlarged] = {}
        after: dict[int, FaceStream] = {}
        for group in groups.values():
            members = list(group.values())
            network, here = self._network_of(members[0]), members[0].done
            known = [_together(frames) for frames in zip(*(stream.known for stream in members), strict=True)]
            pictures, past = self._advance_batch(
                network, known, here, _past_together([stream.past for stream in members])
            )
            drop = max(0, here + 1 - self._keep)
            for index, (track, stream) in enumerate(group.items()):
                picture = plain(network, pictures.chunk(len(members))[index])
                ready[track] = stream.window, torch.rot90(picture, -self._quarters, (1, 2))
                own = _part(past, index, len(members))
                after[track] = replace(stream, known=stream.known[drop:], done=here + 1 - drop, past=own)
        return ready, after

    def _advance_batch(
        self, network: SECNet, known: Sequence[Known], here: int, past: RecurrentState | None
    ) -> tuple[Tensor, RecurrentState]:
        """As `advance`; on several cores one half of the batch beside the other, if it has halves."""
        lanes = self._lanes
        if not lanes.are_two or known[0].picture.shape[0] % 2:
            return advance(network, known, here, past)
        pasts = [None if past is None else _part(past, k, 2) for k in range(2)]
        halves = [([_half(each, k) for each in known], here, pasts[k]) for k in range(2)]
        with lanes.open():
            later = lanes.start(partial(advance, network, *halves[1]))
            first, first_past = advance(network, *halves[0])
            second, second_past = later()
        joined = _past_together((first_past, second_past))
        assert joined is not None
        return torch.cat((first, second)), joined

    def _joined(self, frame: Frame, window: Window, stream: FaceStream | None) -> FaceStream:
        """The stream with one frame more, at its new window."""
        if stream is None:
            stream = FaceStream(window, self._network.config.mirrored and window.area <= MOST_MIRRORED)
        else:
            stream = self._moved(stream, window)
        return replace(stream, known=(*stream.known, self._look(stream, frame, window)))

    def _look(self, stream: FaceStream, frame: Frame, window: Window) -> Known:
        part = frame.image[:, window.top : window.top + window.height, window.left : window.left + window.width]
        return look(self._network_of(stream), frame, torch.rot90(part, self._quarters, (1, 2)))

    def _network_of(self, stream: FaceStream) -> SECNet:
        return self._network if stream.is_mirrored else self._single

    def _moved(self, stream: FaceStream, window: Window) -> FaceStream:
        """The stream as it would be had it always had this window, as far as it knows."""
        if window == stream.window:
            return stream
        known = tuple(self._look(stream, each.frame, window) for each in stream.known)
        if stream.past is None:
            return replace(stream, window=window, known=known)
        fresh = self._network_of(stream).init_state(known[max(0, stream.done - 1)].picture)
        past = RecurrentState(
            tuple(
                self._shifted(old, new, stream, window)
                for old, new in zip(stream.past.results, fresh.results, strict=True)
            ),
            tuple(self._shifted(old, self._nothing(old, stream, window), stream, window) for old in stream.past.memory),
        )
        return replace(stream, window=window, known=known, past=past)

    def _nothing(self, old: Tensor, stream: FaceStream, after: Window) -> Tensor:
        """Zeros for the window `after`, as `old` is for the stream's window."""
        factor = self._as_coded(old, stream).shape[-1] // stream.window.width
        return self._as_seen(old.new_zeros(*old.shape[:2], factor * after.height, factor * after.width), stream)

    def _shifted(self, old: Tensor, new: Tensor, stream: FaceStream, after: Window) -> Tensor:
        """`new` with what `old` knows of the ground that the stream's window and `after` both show."""
        before = stream.window
        old, new = self._as_coded(old, stream), self._as_coded(new, stream).clone()
        factor = new.shape[-1] // after.width
        left, top = max(before.left, after.left), max(before.top, after.top)
        right = min(before.left + before.width, after.left + after.width)
        bottom = min(before.top + before.height, after.top + after.height)
        if left < right and top < bottom:

            def part(tensor: Tensor, window: Window) -> Tensor:
                rows = slice(factor * (top - window.top), factor * (bottom - window.top))
                columns = slice(factor * (left - window.left), factor * (right - window.left))
                return tensor[..., rows, columns]

            part(new, after).copy_(part(old, before))
        return self._as_seen(new, stream)

    def _as_coded(self, tensor: Tensor, stream: FaceStream) -> Tensor:
        """A stream's maps, turned as the film is coded, the second half of a mirrored batch no longer mirrored."""
        return torch.rot90(_unmirrored(tensor) if stream.is_mirrored else tensor, -self._quarters, (-2, -1))

    def _as_seen(self, tensor: Tensor, stream: FaceStream) -> Tensor:
        """The inverse of `_as_coded`."""
        tensor = torch.rot90(tensor, self._quarters, (-2, -1))
        return _unmirrored(tensor) if stream.is_mirrored else tensor


def _unmirrored(tensor: Tensor) -> Tensor:
    """The second half of the batch mirrored, or mirrored back."""
    straight, mirrored = tensor.chunk(2)
    return torch.cat((straight, mirrored.flip(-1)))


def _together(frames: Sequence[Known]) -> Known:
    """The same place in several streams, as one batch; its `frame` is the first one's."""
    first = frames[0]
    if len(frames) == 1:
        return first
    pyramid = stack_pyramids([known.pyramid for known in frames])
    return Known(first.frame, torch.cat([known.picture for known in frames]), pyramid)


def _half(known: Known, number: int) -> Known:
    """The first (0) or second (1) half of a batch."""
    pyramid = Pyramid(tuple(level.chunk(2)[number] for level in known.pyramid.levels), known.pyramid.size)
    return Known(known.frame, known.picture.chunk(2)[number], pyramid)


def _part(past: RecurrentState, number: int, count: int) -> RecurrentState:
    """One of `count` equal parts of a batch."""
    return RecurrentState(
        tuple(tensor.chunk(count)[number] for tensor in past.results),
        tuple(tensor.chunk(count)[number] for tensor in past.memory),
    )


def _past_together(pasts: Sequence[RecurrentState | None]) -> RecurrentState | None:
    known = [past for past in pasts if past is not None]
    if len(known) < 2:
        return known[0] if known else None
    return RecurrentState(
        tuple(torch.cat(tensors) for tensors in zip(*(past.results for past in known), strict=True)),
        tuple(torch.cat(tensors) for tensors in zip(*(past.memory for past in known), strict=True)),
    )


def select_face_engine(compute: ComputeConfig, height: int, width: int) -> Selection:
    """What restores faces in a video of this size, by torch whatever the backend; loads no weights.

    Raises UsageError, ModelError or DeviceError.
    """
    precision: Precision = "auto" if compute.backend == "onnx" else compute.precision
    options = replace(compute, model="auto", backend="torch", precision=precision, tile="off")
    return select(options, "restore_face", height, width)


def build_face_engine(selection: Selection, quarters: int) -> FaceEngine:
    """The face engine of a selection. Raises ModelError where the model's files are not what they were.

    `quarters`: quarter turns counterclockwise that bring the video upright.
    """
    network = load_network(selected_card(selection))
    make = FACE_ENGINES[selection.architecture]
    return make(network, torch.device(selection.device), selection.precision, quarters)


# By the ids of models/registry.py: the engine of each architecture that restores faces.
FACE_ENGINES: dict[str, Callable[[Any, torch.device, str, int], FaceEngine]] = {"secnet": FaceEngine}
