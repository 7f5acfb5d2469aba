"""MPENet on crops that follow faces: each frame from the feedback of the last, as if the crop had never moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.tiny_networks import mpenet_network
from tests.unit.test_restorer import face, video
from vidsr.faces.alignment import similarity_between
from vidsr.faces.blending import soft_mask
from vidsr.faces.restorer import EnlargedCrop, choose_crop, contains
from vidsr.faces.tiny import TinyFaceEngine, crop_around
from vidsr.nets.mpenet.network import moved
from vidsr.stages.saving import freeze, thaw
from vidsr.types import Crop, Face, Frame

CPU = torch.device("cpu")
WITHIN = Crop(8, 0, 80, 64)


def frames_of(places: list[tuple[float, float, float]]) -> list[Frame]:
    """Frames of noise with one face at these centers and sides."""
    generator = torch.Generator().manual_seed(1)
    rows = [[face(1, *place)] for place in places]
    return [replace(frame, image=torch.rand(3, 64, 96, generator=generator)) for frame in video(rows)]


def engine_of(quarters: int = 0, recurrent: bool = True) -> TinyFaceEngine:
    return TinyFaceEngine(mpenet_network("fast"), CPU, "fp32", quarters, recurrent)


def run(engine: TinyFaceEngine, frames: list[Frame], within: Crop = WITHIN, track: int = 1) -> list[EnlargedCrop]:
    state, results = engine.init_state(), []
    for frame in frames:
        ready, state = engine.step(frame, {track: within}, thaw(freeze(state)))
        crop, image = ready[track][:2]
        assert image.shape == (3, 8 * crop.height, 8 * crop.width)
        results.append(ready[track])
    return results


def shown(frame: Frame, crop: Crop) -> torch.Tensor:
    """The crop with its right and lower edges repeated to even sides, which the network needs."""
    image = frame.image[None, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return torch.nn.functional.pad(image, (0, crop.width % 2, 0, crop.height % 2), mode="replicate")


@pytest.mark.numeric
def test_each_frame_starts_from_the_last_ones_feedback_moved_along() -> None:
    """Whether the crop stays, as for the second frame, or moves, as for the third."""
    network = mpenet_network("fast")
    frames = frames_of([(40, 30, 12), (40.5, 30.4, 12), (44, 31, 13)])
    found = run(engine_of(), frames)
    crops = [result.crop for result in found]
    assert crops[0] == crops[1] != crops[2]
    inputs = [shown(frame, crop) for frame, crop in zip(frames, crops, strict=True)]
    points = [
        np.array(frame.faces[0].landmarks) - [crop.left, crop.top] for frame, crop in zip(frames, crops, strict=True)
    ]
    restored = network.restore(inputs[0])
    for t, (result, image) in enumerate(zip(found, inputs, strict=True)):
        if t > 0:
            motion = torch.from_numpy(similarity_between(points[t], points[t - 1]))[None].float()
            size = image.shape[-2], image.shape[-1]
            restored = network.advance(image, moved(network.feedback(restored), motion, size))
        expected = restored.images[-1][0, :, : 8 * result.crop.height, : 8 * result.crop.width].clamp(0, 1)
        torch.testing.assert_close(result.image, expected, atol=1e-5, rtol=0)
    afresh = run(engine_of(recurrent=False), frames)
    assert torch.equal(afresh[0].image, found[0].image)
    assert (afresh[1].image - found[1].image).abs().max() > 1e-4


@pytest.mark.numeric
def test_a_face_that_moves_with_all_around_it_looks_as_if_it_stood_still() -> None:
    """The crop moves along, and with it the feedback."""
    still = frames_of([(40.2, 30.3, 12)] * 3)
    moving = []
    for number, frame in enumerate(still):
        dx, dy = 5 * number, -3 * number
        (one,) = frame.faces
        box = one.box[0] + dx, one.box[1] + dy, *one.box[2:]
        points = tuple((x + dx, y + dy) for x, y in one.landmarks)
        image = torch.roll(frame.image, (dy, dx), (1, 2))
        moving.append(replace(frame, image=image, faces=(replace(one, box=box, landmarks=points),)))
    for number, (one, other) in enumerate(zip(run(engine_of(), still), run(engine_of(), moving), strict=True)):
        assert (other.crop.left, other.crop.top) == (one.crop.left + 5 * number, one.crop.top - 3 * number)
        torch.testing.assert_close(one.image, other.image, atol=1e-5, rtol=0)


@pytest.mark.numeric
def test_the_network_sees_upright_faces() -> None:
    """A video that was turned gives the turned result."""
    frames = frames_of([(40.2, 30.3, 12), (41.2, 30.3, 12)])
    found = run(engine_of(), frames)
    turned = []
    for frame in frames:
        (one,) = frame.faces
        height = frame.image.shape[1]
        points = tuple((height - y, x) for x, y in one.landmarks)  # clockwise: a quarter turn brings it back
        left, top, wide, tall = one.box
        there = replace(one, landmarks=points, box=(height - top - tall, left, tall, wide))
        turned.append(replace(frame, image=torch.rot90(frame.image, -1, (1, 2)), faces=(there,)))
    within = Crop(64 - WITHIN.top - WITHIN.height, WITHIN.left, WITHIN.height, WITHIN.width)
    for one, other in zip(found, run(engine_of(quarters=1), turned, within), strict=True):
        torch.testing.assert_close(torch.rot90(other.image, 1, (1, 2)), one.image, atol=1e-5, rtol=0)


def test_crops_at_odd_borders_have_results_of_their_size() -> None:
    for result in run(engine_of(), frames_of([(90, 60, 12), (91, 60, 12)]), Crop(79, 47, 17, 17)):
        assert torch.isfinite(result.image).all() and contains(Crop(79, 47, 17, 17), result.crop)
    assert engine_of().flush({}, [1]) == {1: []}


@pytest.mark.numeric
@pytest.mark.parametrize("area", [0, 1000, 8192])
def test_faces_of_a_frame_look_as_if_each_were_alone(area: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches too: two of one size and one of another, a fourth that begins later, and one that ends."""
    monkeypatch.setattr("vidsr.faces.tiny.BATCH_AREA_CPU", area)
    rows = [
        [face(track, 8 + 16 * track + t, 30 - track, side) for track, side in ((1, 12), (2, 12), (3, 9), (4, 12))]
        for t in range(3)
    ]
    rows[0].pop()
    rows[2].pop(0)
    generator = torch.Generator().manual_seed(1)
    frames = [replace(frame, image=torch.rand(3, 64, 96, generator=generator)) for frame in video(rows)]
    engine, state, counts = engine_of(), {}, []
    network = engine._network
    for name in ("restore", "advance"):
        plain = getattr(network, name)
        monkeypatch.setattr(
            network, name, lambda image, *rest, plain=plain: (counts.append(len(image)), plain(image, *rest))[1]
        )
    found = []
    for frame in frames:
        ready, state = engine.step(frame, {each.track: WITHIN for each in frame.faces}, thaw(freeze(state)))
        found.append(ready)
    assert counts == {0: [1] * 10, 1000: [1] * 10, 8192: [2, 1, 2, 1, 1, 2, 1]}[area]
    for track in (1, 2, 3, 4):
        mine = [t for t, frame in enumerate(frames) if track in found[t]]
        alone = run(engine_of(), [only(frames[t], track) for t in mine], track=track)
        for t, one in zip(mine, alone, strict=True):
            assert found[t][track].crop == one.crop
            torch.testing.assert_close(found[t][track].image, one.image, atol=1e-5, rtol=0)


def only(frame: Frame, track: int) -> Frame:
    return replace(frame, faces=tuple(each for each in frame.faces if each.track == track))


# --------------------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize(("x", "y", "side"), [(40, 30, 14.0), (40.6, 30.2, 8.0), (2, 3, 14.0), (94, 62, 9.0)])
@pytest.mark.parametrize("aspect", [0.75, 1.0])
def test_a_crop_holds_what_is_blended(x: float, y: float, side: float, aspect: float) -> None:
    """Inside of it the mask is that of a larger crop, outside of it that is zero: nearly, because pixels are whole."""
    one = shaped(x, y, side, aspect)
    within = choose_crop(one.box, 96, 64, None)
    crop = crop_around(one, within, None)
    assert contains(within, crop) and crop.area < 0.75 * within.area
    later = shaped(x + 0.4, y - 0.3, side, aspect)
    kept = crop_around(later, within, crop)
    assert kept == crop
    for box, least in ((one.box, 0.01), (later.box, 0.05)):
        wide, close = (soft_mask(box, each, 96, 64, 4, CPU) for each in (within, crop))
        placed = torch.zeros_like(wide)
        top, left = 4 * (crop.top - within.top), 4 * (crop.left - within.left)
        placed[top : top + close.shape[0], left : left + close.shape[1]] = close
        assert (placed - wide).abs().max() < least


def test_a_crop_shows_as_much_around_a_face_as_training_did() -> None:
    """Crops of 16 pixels with a face of 8 to 18: up to two sides of the face. Larger crops show three to four."""
    for side in (8.0, 12.0, 16.0, 20.0):
        one = shaped(40.3, 30.2, side, 0.8)
        within = choose_crop(one.box, 96, 64, None)
        assert 1.6 < crop_around(one, within, None).area ** 0.5 / side < 2.3 < within.area**0.5 / side


def test_a_crop_is_replaced_when_it_no_longer_fits() -> None:
    """When the face leaves it, shrinks, or when the crop that follows the face has moved away."""
    within = Crop(0, 0, 96, 64)
    crop = crop_around(shaped(40, 30, 14, 1), within, None)
    assert crop_around(shaped(40.5, 30, 14, 1), within, crop) == crop
    assert crop_around(shaped(44, 30, 14, 1), within, crop) != crop
    assert crop_around(shaped(40, 30, 9, 1), within, crop).area < 0.7 * crop.area
    moved_on = Crop(crop.left + 1, 0, 60, 64)
    assert contains(moved_on, crop_around(shaped(40, 30, 14, 1), moved_on, crop))


def shaped(x: float, y: float, side: float, aspect: float) -> Face:
    """A face around (x, y) with this side, and a width of `aspect` heights."""
    width, height = side * aspect**0.5, side / aspect**0.5
    return replace(face(1, x, y, side), box=(x - width / 2, y - height / 2, width, height))
