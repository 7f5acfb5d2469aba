"""Which network restores which face: the rule, the hand-over without a jump, and pending results of both networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.test_restorer import face, video
from vidsr.config import FaceConfig, RestoreConfig
from vidsr.faces import handover
from vidsr.faces.blending import REACH, FaceBlender
from vidsr.faces.framewise import close_crop
from vidsr.faces.handover import HANDOVER, PACE, SizedFaceEngine, share_of_large, tiny_card
from vidsr.faces.restorer import EnlargedCrop, FaceRestorer, choose_crop
from vidsr.faces.tiny import crop_around
from vidsr.models.cards import TrainedCard, list_cards
from vidsr.nets.layers.resize import resize
from vidsr.stages.base import through
from vidsr.stages.saving import freeze, thaw
from vidsr.types import Crop, Face, Frame, RestoredFace


@dataclass
class Constant:
    """Answers with images of one value, `lookahead` frames later. `asked` are the tracks of each frame."""

    value: float
    scale: int
    lookahead: int = 0
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def init_state(self) -> Any:
        return {}

    def step(self, frame: Frame, crops: Mapping[int, Crop], streams: Any) -> tuple[dict[int, EnlargedCrop], Any]:
        self.asked.append(tuple(sorted(crops)))
        counts = {track: streams.get(track, 0) + 1 for track in crops}
        due = [track for track in crops if counts[track] > self.lookahead]
        ready = {track: EnlargedCrop(crops[track], self._image(crops[track])) for track in due}
        return ready, {track: min(count, self.lookahead) for track, count in counts.items()}

    def flush(self, streams: Any, tracks: Iterable[int]) -> dict[int, list[EnlargedCrop]]:
        return {
            track: [EnlargedCrop(Crop(0, 0, 8, 8), self._image(Crop(0, 0, 8, 8)))] * streams[track] for track in tracks
        }

    def _image(self, crop: Crop) -> Tensor:
        return torch.full((3, self.scale * crop.height, self.scale * crop.width), self.value)


CROP = Crop(0, 0, 8, 8)


def row_of(sides: Iterable[float | None]) -> list[list[Face]]:
    return [[] if side is None else [face(1, 40, 30, side)] for side in sides]


def values(sides: list[float | None], lookahead: int = 2) -> tuple[list[float | None], Constant, Constant]:
    """What is shown of one track with these sides, frame by frame: the share of the network for larger faces."""
    tiny, large = Constant(0.0, 8), Constant(1.0, 4, lookahead)
    engine = SizedFaceEngine(tiny, large)
    state, shown, waiting = engine.init_state(), [], 0
    for frame in video(row_of(sides)):
        crops = {each.track: CROP for each in frame.faces}
        if waiting and not crops:
            shown += [float(image.mean()) for _, image, *_ in engine.flush(state, [1])[1]]
            waiting = 0
        ready, state = engine.step(frame, crops, thaw(freeze(state)))
        waiting += len(crops)
        if 1 in ready:
            shown.append(float(ready[1][1].mean()))
            waiting -= 1
    if waiting:
        shown += [float(image.mean()) for _, image, *_ in engine.flush(state, [1])[1]]
    return shown, tiny, large


def test_the_rule_is_one_function_of_the_side() -> None:
    first, second = HANDOVER
    assert [share_of_large(side) for side in (1, first, second, 200)] == [0, 0, 1, 1]
    assert share_of_large((first + second) / 2) == pytest.approx(0.5)


def test_a_face_that_grows_through_the_border_does_not_pop() -> None:
    """Also when its side jumps from one frame to the next: the share moves by PACE at most, up and down."""
    slow = [10 + 0.5 * t for t in range(40)]
    jump = [10.0] * 6 + [40.0] * 12 + [10.0] * 12
    for sides in (slow, jump):
        shown, _, _ = values([*sides])
        assert len(shown) == len(sides)
        steps = [b - a for a, b in pairwise(shown)]
        assert max(map(abs, steps)) <= PACE + 1e-6
        assert max(steps) > 0.05  # it does move
        assert shown[0] == 0 and max(shown) == 1
    assert shown[-1] == 0


def test_each_network_runs_only_for_the_faces_that_need_it() -> None:
    _, tiny, large = values([10.0] * 8)
    assert not any(large.asked) and sum(map(len, tiny.asked)) == 8
    shown, tiny, large = values([60.0] * 8)
    assert not any(tiny.asked) and sum(map(len, large.asked)) == 8 and shown == [1.0] * 8


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("side", [10.0, 18.0, 40.0])
def test_every_frame_has_one_result(lookahead: int, count: int, side: float) -> None:
    """Of short tracks too, of tracks that begin and end in the middle, and where the larger network joins late."""
    sides = [None, *[side] * count, None, *[10.0] * 3, 21.0, 21.0, None]
    shown, _, _ = values(sides, lookahead)
    assert len(shown) == count + 5
    assert shown[:count] == pytest.approx([share_of_large(side)] * count, abs=1e-6)
    assert shown[count:] == pytest.approx([0, 0, 0, PACE, 2 * PACE], abs=1e-6)


def test_the_restorer_takes_both_networks_as_one() -> None:
    """Mixed images have the scale of the network for larger faces; every frame in the middle of a track is restored."""
    engine = SizedFaceEngine(Constant(0.0, 8), Constant(1.0, 4, 2))
    restorer = FaceRestorer(engine, RestoreConfig(min_face=8))
    frames = list(through(restorer, video(row_of([9 + 0.6 * t for t in range(30)]))))
    patches = [each.restored for frame in frames for each in frame.faces]
    assert len(patches) == 30 and all(patches)
    scales = [patch.image.shape[-1] // patch.crop.width for patch in patches if patch]
    assert scales[0] == 8 and scales[-1] == 4 and sorted(scales, reverse=True) == scales


# ----------------------------------------------------------------------------------------------------- different crops


@dataclass
class Painted:
    """Shows what a painting of the whole frame shows in a crop, at once: the close one, or the one that it is given."""

    painting: Tensor
    is_close: bool
    reach: float = REACH
    lookahead: int = 0

    def init_state(self) -> Any:
        return {}

    def step(self, frame: Frame, crops: Mapping[int, Crop], streams: Any) -> tuple[dict[int, EnlargedCrop], Any]:
        ready = {}
        for track, crop in crops.items():
            (one,) = frame.faces
            shown = crop_around(one, crop, None) if self.is_close else crop
            if self.reach != REACH:
                *_, width, height = one.box
                shown = close_crop(one.box, (self.reach * width / 2, self.reach * height / 2), crop, None, 0)
            scale = self.painting.shape[-1] // frame.image.shape[-1]
            rows = slice(scale * shown.top, scale * (shown.top + shown.height))
            columns = slice(scale * shown.left, scale * (shown.left + shown.width))
            ready[track] = EnlargedCrop(shown, self.painting[:, rows, columns])
        return ready, streams

    def flush(self, streams: Any, tracks: Iterable[int]) -> dict[int, list[EnlargedCrop]]:
        return {track: [] for track in tracks}


def painting(scale: int, seed: int) -> Tensor:
    """For frames of 96x64: coarse and strong, so that every border would show."""
    coarse = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(seed))
    return resize(coarse, (scale * 64, scale * 96)).clamp(0, 1)


def blended(side: float, x: float, y: float, reach: float = REACH, scale: int | None = None) -> Tensor:
    """The enlarged frame with a face of this side in it, as in the first frame of a track."""
    factor = scale or 4
    engine = SizedFaceEngine(Painted(painting(8, 1), True, reach), Painted(painting(4, 2), False), scale)
    one = face(1, x, y, side)
    (frame,) = video([[one]])
    crop = choose_crop(one.box, 96, 64, None)
    ready, _ = engine.step(frame, {1: crop}, engine.init_state())
    shown, image = ready[1][:2]
    patch = RestoredFace(image, shown, one.box, 1.0)
    carrier = replace(frame, image=painting(factor, 3), faces=(replace(one, restored=patch),))
    return FaceBlender(1.0, factor).process(carrier).image


@pytest.mark.parametrize("scale", [None, 8])
@pytest.mark.parametrize(("x", "y"), [(40.0, 30.0), (41.3, 28.8), (3.0, 30.5), (92.2, 61.7)])
def test_nothing_jumps_where_one_crop_gives_way_to_the_other(x: float, y: float, scale: int | None) -> None:
    """At both ends of the hand-over, just before and just after; a crop without a margin would jump by half."""
    first, second = HANDOVER
    for border in (first, second):
        before, after = (blended(border + change, x, y, scale=scale) for change in (-1e-4, 1e-4))
        assert (before - after).abs().max() < 0.01
    tight = [blended(second + change, x, y, 1.1, scale) for change in (-1e-4, 1e-4)]
    assert (tight[0] - tight[1]).abs().max() > 0.5


def test_images_are_mixed_in_the_place_that_both_show() -> None:
    """Half of each painting, pixel by pixel; around it is what the frame has."""
    tiny, large = painting(8, 1), painting(4, 2)
    engine = SizedFaceEngine(Painted(tiny, True), Painted(large, False), 8)
    one = face(1, 40.3, 30.2, sum(HANDOVER) / 2)
    (frame,) = video([[one]])
    crop = choose_crop(one.box, 96, 64, None)
    ready, _ = engine.step(frame, {1: crop}, engine.init_state())
    shown, image = ready[1][:2]
    assert shown == crop_around(one, crop, None) != crop
    rows, columns = (
        slice(8 * shown.top, 8 * (shown.top + shown.height)),
        slice(8 * shown.left, 8 * (shown.left + shown.width)),
    )
    part = [slice(4 * each, 4 * (each + length)) for each, length in ((crop.top, crop.height), (crop.left, crop.width))]
    whole = resize(large[:, part[0], part[1]], (8 * crop.height, 8 * crop.width)).clamp(0, 1)
    inner = whole[:, 8 * (shown.top - crop.top) :, 8 * (shown.left - crop.left) :]
    inner = inner[:, : 8 * shown.height, : 8 * shown.width]
    torch.testing.assert_close(image, (tiny[:, rows, columns] + inner) / 2, atol=1e-6, rtol=0)


def test_without_weights_the_network_for_larger_faces_restores_all(monkeypatch: pytest.MonkeyPatch) -> None:
    card = next(card for card in list_cards() if card.name == "secnet-fast-face")
    others = [each for each in list_cards() if each.name != handover.TINY_MODEL]
    monkeypatch.setattr(handover, "list_cards", lambda: others)
    assert tiny_card(FaceConfig().min_face) is None
    monkeypatch.setattr(handover, "TINY_MODEL", card.name)
    assert tiny_card(FaceConfig().min_face) == card and tiny_card(HANDOVER[1]) is None


@pytest.mark.parametrize(("gain", "takes"), [(-0.01, False), (0.0, True), (0.3, True)])
def test_the_measured_gain_decides_who_restores_tiny_faces(
    monkeypatch: pytest.MonkeyPatch, gain: float, takes: bool
) -> None:
    card = next(card for card in list_cards() if card.name == "secnet-fast-face")
    assert isinstance(card, TrainedCard)
    tiny = replace(card, name=handover.TINY_MODEL, metrics=card.metrics | {handover.OVER_LARGER: gain})
    monkeypatch.setattr(handover, "list_cards", lambda: [card, tiny])
    assert (tiny_card(FaceConfig().min_face) is tiny) == takes
