"""MPENet on crops that follow faces: each frame from the feedback of the last, as if the crop had never moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.tiny_networks import mpenet_network
from tests.unit.test_restorer import face, video
from vidsr.faces.alignment import similarity_between
from vidsr.faces.tiny import TinyFaceEngine
from vidsr.nets.mpenet.network import moved
from vidsr.stages.saving import freeze, thaw
from vidsr.types import Crop, Frame

CPU = torch.device("cpu")


def frames_of(places: list[tuple[float, float, float]]) -> list[Frame]:
    """Frames of noise with one face at these centers and sides."""
    generator = torch.Generator().manual_seed(1)
    rows = [[face(1, *place)] for place in places]
    return [replace(frame, image=torch.rand(3, 64, 96, generator=generator)) for frame in video(rows)]


def engine_of(quarters: int = 0, recurrent: bool = True) -> TinyFaceEngine:
    return TinyFaceEngine(mpenet_network("fast"), CPU, "fp32", quarters, recurrent)


def run(engine: TinyFaceEngine, frames: list[Frame], crops: list[Crop]) -> list[torch.Tensor]:
    state, images = engine.init_state(), []
    for frame, crop in zip(frames, crops, strict=True):
        ready, state = engine.step(frame, {1: crop}, thaw(freeze(state)))
        assert ready[1][0] == crop
        images.append(ready[1][1])
    return images


@pytest.mark.numeric
def test_each_frame_starts_from_the_last_ones_feedback_moved_along() -> None:
    network = mpenet_network("fast")
    frames = frames_of([(40, 30, 12), (41.3, 30.4, 12.5), (42, 31, 13)])
    crop = Crop(24, 16, 32, 24)
    found = run(engine_of(), frames, [crop] * 3)
    inputs = [frame.image[None, :, 16:40, 24:56] for frame in frames]
    points = [np.array(frame.faces[0].landmarks) - [24, 16] for frame in frames]
    restored = network.restore(inputs[0])
    torch.testing.assert_close(found[0], restored.images[-1][0].clamp(0, 1), atol=1e-5, rtol=0)
    for t in (1, 2):
        motion = torch.from_numpy(similarity_between(points[t], points[t - 1]))[None].float()
        restored = network.advance(inputs[t], moved(network.feedback(restored), motion))
        torch.testing.assert_close(found[t], restored.images[-1][0].clamp(0, 1), atol=1e-5, rtol=0)
    afresh = run(engine_of(recurrent=False), frames, [crop] * 3)
    assert torch.equal(afresh[0], found[0]) and (afresh[1] - found[1]).abs().max() > 1e-4


@pytest.mark.numeric
def test_a_crop_that_moves_shows_the_same_face() -> None:
    """Far from the borders of both crops the result does not depend on where they lie."""
    frames = frames_of([(40, 30, 12), (40.5, 30, 12)])
    wide = run(engine_of(), frames, [Crop(8, 0, 64, 64)] * 2)[1]
    other = run(engine_of(), frames, [Crop(8, 0, 64, 64), Crop(12, 2, 60, 58)])[1]
    middle = (slice(None), slice(8 * 24, 8 * 36), slice(8 * 34, 8 * 46))
    inside = [slice(None), slice(8 * 22, 8 * 34), slice(8 * 30, 8 * 42)]
    shifted = wide[(slice(None), slice(8 * 24, 8 * 36), slice(8 * 34, 8 * 46))]
    assert shifted.shape == wide[middle].shape
    # Hourglasses see squares of pixels whose grid moves with the crop.
    assert (other[tuple(inside)] - shifted).abs().mean() < 0.02


@pytest.mark.numeric
def test_the_network_sees_upright_faces() -> None:
    """A video that was turned gives the turned result."""
    frames = frames_of([(40, 30, 12), (41, 30, 12)])
    crop = Crop(24, 16, 32, 24)
    found = run(engine_of(), frames, [crop] * 2)
    turned = []
    for frame in frames:
        (one,) = frame.faces
        points = tuple(
            (frame.image.shape[1] - y, x) for x, y in one.landmarks
        )  # clockwise: a quarter turn brings it back
        turned.append(
            replace(frame, image=torch.rot90(frame.image, -1, (1, 2)), faces=(replace(one, landmarks=points),))
        )
    there = run(engine_of(quarters=1), turned, [Crop(64 - 40, 24, 24, 32)] * 2)
    for one, other in zip(found, there, strict=True):
        torch.testing.assert_close(torch.rot90(other, 1, (1, 2)), one, atol=1e-5, rtol=0)


def test_crops_at_odd_borders_have_results_of_their_size() -> None:
    frames = frames_of([(90, 60, 12), (91, 60, 12)])
    crop = Crop(79, 47, 17, 17)
    for image in run(engine_of(), frames, [crop, Crop(80, 46, 16, 18)]):
        assert torch.isfinite(image).all() and image.shape[1] % 8 == 0
    assert engine_of().flush({}, [1]) == {1: []}
