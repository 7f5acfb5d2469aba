"""Which network restores which face: the rule, the hand-over without a jump, and pending results of both networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.tiny_networks import narrow_network
from tests.unit.test_restorer import face, video
from vidsr.config import FaceConfig, RestoreConfig
from vidsr.faces import handover
from vidsr.faces.engine import FaceEngine
from vidsr.faces.handover import HANDOVER, PACE, SizedFaceEngine, share_of_large, tiny_card
from vidsr.faces.restorer import EnlargedCrop, FaceRestorer, choose_crop
from vidsr.models.cards import TrainedCard, list_cards
from vidsr.nets.layers.resize import resize
from vidsr.stages.base import through
from vidsr.stages.saving import freeze, thaw
from vidsr.types import Crop, Face, Frame


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
    tiny, large = Constant(0.0, 4, lookahead), Constant(1.0, 4, lookahead)
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
@pytest.mark.parametrize("side", [10.0, 24.0, 40.0])
def test_every_frame_has_one_result(lookahead: int, count: int, side: float) -> None:
    """Of short tracks too, of tracks that begin and end in the middle, and where the larger network joins late."""
    sides = [None, *[side] * count, None, *[10.0] * 3, 27.0, 27.0, None]
    shown, _, _ = values(sides, lookahead)
    assert len(shown) == count + 5
    assert shown[:count] == pytest.approx([share_of_large(side)] * count, abs=1e-6)
    assert shown[count:] == pytest.approx([0, 0, 0, PACE, 2 * PACE], abs=1e-6)


def test_the_restorer_takes_both_networks_as_one() -> None:
    """Mixed images have the larger scale; every frame in the middle of a track is restored."""
    engine = SizedFaceEngine(Constant(0.0, 8, 2), Constant(1.0, 4, 2))
    restorer = FaceRestorer(engine, RestoreConfig(min_face=8))
    frames = list(through(restorer, video(row_of([9 + 0.9 * t for t in range(30)]))))
    patches = [each.restored for frame in frames for each in frame.faces]
    assert len(patches) == 30 and all(patches)
    scales = [patch.image.shape[-1] // patch.crop.width for patch in patches if patch]
    assert scales[0] == 8 and scales[-1] == 4 and sorted(scales, reverse=True) == scales


def test_images_are_mixed_where_both_have_a_share() -> None:
    """Half of each in the middle of the hand-over, pixel by pixel, and of the photographs' weights."""
    generator = torch.Generator().manual_seed(1)
    small, image = torch.rand(3, 64, 64, generator=generator), torch.rand(3, 32, 32, generator=generator)
    tiny, large = EnlargedCrop(CROP, small), EnlargedCrop(CROP, image, (0.5, 1.0))
    result = handover._joined(tiny, large, 0.5)
    expected = (small + resize(image, (64, 64)).clamp(0, 1)) / 2
    torch.testing.assert_close(result.image, expected, atol=1e-6, rtol=0)
    assert result.crop == CROP and result.weights == (0.25, 0.5)
    assert handover._joined(tiny, large, 0.0) is tiny and handover._joined(tiny, large, 1.0) is large


@pytest.mark.numeric
@pytest.mark.parametrize("quarters", [0, 1])
def test_two_networks_of_the_same_weights_are_one(quarters: int) -> None:
    """Where both have a share, frame by frame, while the crop moves and at the end of the track."""
    network = narrow_network(t1=2, mirrored=True)
    alone, tiny, large = (FaceEngine(network, torch.device("cpu"), "fp32", quarters) for _ in range(3))
    generator, found = torch.Generator().manual_seed(1), []
    frames = [
        replace(frame, image=torch.rand(3, 64, 96, generator=generator))
        for frame in video([[face(1, 40 + 3 * t, 30, 24 + 0.3 * t)] for t in range(6)])
    ]
    for engine in (alone, SizedFaceEngine(tiny, large)):
        state, results = engine.init_state(), []
        for frame in frames:
            crop = choose_crop(frame.faces[0].box, 96, 64, None)
            ready, state = engine.step(frame, {1: crop}, thaw(freeze(state)))
            results += [ready[1]] if 1 in ready else []
        found.append(results + engine.flush(state, [1])[1])
    assert [len(results) for results in found] == [6, 6]
    for one, other in zip(*found, strict=True):
        assert one.crop == other.crop
        torch.testing.assert_close(one.image, other.image, atol=1e-5, rtol=0)


def test_without_weights_the_network_for_larger_faces_restores_all(monkeypatch: pytest.MonkeyPatch) -> None:
    card = next(card for card in list_cards() if card.name == "secnet-fast-face")
    others = [each for each in list_cards() if each.name != handover.TINY_MODEL]
    monkeypatch.setattr(handover, "list_cards", lambda: others)
    assert tiny_card(FaceConfig().min_face, card.name) is None
    monkeypatch.setattr(handover, "TINY_MODEL", card.name)
    assert tiny_card(FaceConfig().min_face, card.name) == card and tiny_card(HANDOVER[1], card.name) is None
    assert tiny_card(FaceConfig().min_face, "secnet-fast-face-references") is None


@pytest.mark.parametrize(("gain", "takes"), [(-0.01, False), (0.0, True), (0.3, True)])
def test_the_measured_gain_decides_who_restores_tiny_faces(
    monkeypatch: pytest.MonkeyPatch, gain: float, takes: bool
) -> None:
    card = next(card for card in list_cards() if card.name == "secnet-fast-face")
    assert isinstance(card, TrainedCard)
    tiny = replace(card, name=handover.TINY_MODEL, metrics=card.metrics | {handover.OVER_LARGER: gain})
    monkeypatch.setattr(handover, "list_cards", lambda: [card, tiny])
    assert (tiny_card(FaceConfig().min_face, card.name) is tiny) == takes
