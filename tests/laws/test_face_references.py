"""The face engine with reference photographs: the network's results at every pose, alone and among others."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.golden.test_secnet_references import BRANCH, SIZES, secnet
from tests.laws.test_face_engine import Crops, Results, drifting, run
from vidsr.errors import UsageError
from vidsr.faces.alignment import UPRIGHT, similarity_between, transformed, warped
from vidsr.faces.engine import FaceEngine
from vidsr.faces.references import CANVAS, KEPT, STEP, FacePhotograph, covered_part, mean_weights
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.secnet.references import PosedReferences, ReferenceBranch
from vidsr.types import Crop, Face, Frame

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
CROP = Crop(8, 4, 32, 24)
LENGTH = 5
EYES = 6.0  # distance in source pixels


def photograph(seed: int) -> FacePhotograph:
    image = np.random.default_rng(seed).integers(0, 256, (90, 80, 3), np.uint8)
    return FacePhotograph(image, np.array([40.0, 45.0]) + 20 * UPRIGHT)


PHOTOGRAPHS = [photograph(1), photograph(2)]


def points_at(t: int, track: int = 1) -> Any:
    """A face that turns and moves by a pixel per frame."""
    angle = 0.1 * t - 0.2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.array([24.0 + t, 16.0 + track]) + EYES * UPRIGHT @ turn.T


def with_face(frame: Frame, points: Sequence[Any], tracks: Sequence[int] = (1,)) -> Frame:
    faces = [
        Face((0.0, 0.0, 9.0, 9.0), tuple((float(x), float(y)) for x, y in each), 1.0, track)
        for each, track in zip(points, tracks, strict=True)
    ]
    return replace(frame, faces=tuple(faces))


def clip(tracks: Sequence[int] = (1,)) -> list[Frame]:
    frames = drifting(LENGTH, 40, 48)
    return [with_face(frame, [points_at(t, k) for k in tracks], tracks) for t, frame in enumerate(frames)]


def engine_of(network: SECNet, quarters: int = 0, tracks: Sequence[int] = (1,)) -> FaceEngine:
    return FaceEngine(network, CPU, "fp32", quarters, dict.fromkeys(tracks, PHOTOGRAPHS))


def images(results: Results, track: int = 1) -> Tensor:
    return torch.stack([image for _, image, *_ in results[track]])


def expected(network: SECNet, is_mirrored: bool) -> Tensor:
    """The network on the cropped clip, and what photographs at the poses of the points add to its results.

    With `is_mirrored` these results are the means of those of the clip and of its mirror image.
    """
    frames = clip()
    low = torch.stack([f.image[:, 4:28, 8:40] for f in frames])[None]
    scale = STEP ** round(math.log(4 * EYES) / math.log(STEP))
    side = 8 * math.ceil(CANVAS * scale / 8)
    target = side / 2 + scale * UPRIGHT
    photographs = [warped(each.image, similarity_between(each.points, target), side, side) for each in PHOTOGRAPHS]
    shown = torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2).float()[None] / 255
    results = network(low).results[0].clamp(0, 1)
    if is_mirrored:
        results = (results + network(low.flip(-1)).results[0].clamp(0, 1).flip(-1)) / 2
    assert network.references is not None
    details, images = network.references.describe(shown), []
    for t, result in enumerate(results):
        points = points_at(t) - [8, 4]
        part = covered_part(similarity_between(target / 4, points), side / 4, 24, 32)
        pose = torch.from_numpy(similarity_between(points - [part.left, part.top], target / 4)).float()
        posed = PosedReferences(details, pose.expand(1, 2, -1, -1))
        rows, columns = (slice(4 * a, 4 * (a + b)) for a, b in ((part.top, part.height), (part.left, part.width)))
        images.append(result.clone())
        images[-1][:, rows, columns] = network.refer(result[None, :, rows, columns], posed).image[0]
    return torch.stack(images).clamp(0, 1)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_results_are_the_networks_at_the_poses_of_the_points(is_mirrored: bool) -> None:
    network = secnet(BRANCH, strength=0.5)
    engine = engine_of(secnet(BRANCH | {"mirrored": is_mirrored}, strength=0.5))
    found = images(run(engine, clip(), [{1: CROP}] * LENGTH))
    torch.testing.assert_close(found, expected(network, is_mirrored), atol=2e-5, rtol=0)
    plain = images(run(FaceEngine(network, CPU, "fp32"), clip(), [{1: CROP}] * LENGTH))
    assert (plain - found).abs().max() > 1e-3


def test_a_rotated_video_has_the_same_results() -> None:
    """Coded a quarter turn clockwise, displayed upright."""
    network = secnet(BRANCH, strength=0.5)
    upright = images(run(engine_of(network), clip(), [{1: CROP}] * LENGTH))
    coded = []
    for t, frame in enumerate(clip()):
        x, y = points_at(t).T
        turned = frame.with_image(torch.rot90(frame.image, -1, (1, 2)).contiguous())
        coded.append(with_face(turned, [np.stack([40 - y, x], axis=1)]))
    crop = Crop(40 - 4 - 24, 8, 24, 32)
    found = images(run(engine_of(network, quarters=1), coded, [{1: crop}] * LENGTH))
    torch.testing.assert_close(torch.rot90(found, 1, (2, 3)), upright, atol=2e-5, rtol=0)


def test_other_faces_change_nothing() -> None:
    """Three tracks of one size in the same frames: two with photographs, one without."""
    network = secnet(BRANCH, strength=0.5)
    alone = images(run(engine_of(network), clip(), [{1: CROP}] * LENGTH))
    both = [1, 2, 3]
    plan: list[Crops] = [{1: CROP, 2: Crop(8, 8, 32, 24), 3: CROP}] * LENGTH
    results = run(engine_of(network, tracks=(1, 2)), clip(both), plan)
    torch.testing.assert_close(images(results), alone, atol=2e-5, rtol=0)
    without = images(run(FaceEngine(secnet(SIZES), CPU, "fp32"), clip(both), [{3: CROP}] * LENGTH), 3)
    torch.testing.assert_close(images(results, 3), without, atol=2e-5, rtol=0)
    assert (images(results, 2) - alone).abs().max() > 1e-3


def test_a_crop_that_moves_keeps_the_pose_in_the_frame() -> None:
    """Where the references are sampled does not depend on the crop: in the middle, results hardly differ."""
    network = secnet(BRANCH, strength=0.5)
    still = images(run(engine_of(network), clip(), [{1: Crop(0, 0, 48, 40)}] * LENGTH))
    plan: list[Crops] = [{1: Crop(0, 0, 40, 32)}] * 3 + [{1: Crop(8, 8, 40, 32)}] * 2
    moved = run(engine_of(network), clip(), plan)[1]
    crop, image, *_ = moved[-1]
    near = image[:, 32:80, 48:96]
    apart = (near - still[-1][:, 64:112, 80:128]).abs().mean()
    wrong = (near - still[-1][:, 64:112, 80:128].flip(-1)).abs().mean()
    assert crop.left == 8 and apart < 0.1 * wrong


def test_photographs_are_described_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    describe = ReferenceBranch.describe
    monkeypatch.setattr(
        ReferenceBranch, "describe", lambda self, images: calls.append(images.shape) or describe(self, images)
    )
    engine = engine_of(secnet(BRANCH, strength=0.5))
    for _ in range(2):  # the track is lost and comes back
        run(engine, clip(), [{1: CROP}] * LENGTH)
    assert len(calls) == 1 and calls[0][:2] == (1, 2)
    grown = [with_face(frame, [points_at(0) + t * UPRIGHT]) for t, frame in enumerate(drifting(9, 40, 48))]
    run(engine, grown, [{1: CROP}] * 9)
    assert len(calls) == 3 and KEPT**2 < 14 / EYES  # nine frames


def test_the_state_can_be_saved_and_restored() -> None:
    network = secnet(BRANCH, strength=0.5)
    whole = run(engine_of(network), clip(), [{1: CROP}] * LENGTH)[1]
    first, second = engine_of(network), engine_of(network)
    streams: Any = first.init_state()
    found = []
    for t, frame in enumerate(clip()):
        if t == 3:
            file = io.BytesIO()
            torch.save(streams, file)
            file.seek(0)
            streams, first = torch.load(file, weights_only=False), second
        ready, streams = first.step(frame, {1: CROP}, streams)
        found += [ready[1]] if 1 in ready else []
    found += first.flush(streams, [1])[1]
    assert all(torch.equal(one[1], other[1]) for one, other in zip(whole, found, strict=True))


def test_a_network_without_the_branch_refuses_photographs() -> None:
    with pytest.raises(UsageError, match="takes no reference photographs: use one with a reference_width"):
        engine_of(secnet(SIZES))


def test_points_are_compared_at_their_own_size() -> None:
    """A description keeps its scale while a face grows a little, so that it does not alternate between two."""
    references = engine_of(secnet(BRANCH))._references
    face = with_face(clip()[0], [points_at(0)]).faces[0]
    scale = references.scale_of(face, None)
    assert scale == pytest.approx(4 * EYES, rel=STEP - 1)
    assert references.scale_of(face, scale * 1.2) == scale * 1.2 and references.scale_of(face, scale * 2) == scale
    np.testing.assert_allclose(transformed(similarity_between(UPRIGHT, points_at(0)), UPRIGHT), points_at(0), atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-40, 80), st.floats(-40, 60), st.floats(0, 6.3), st.floats(0.3, 3), st.integers(1, 60), st.integers(1, 50)
)
def test_the_part_that_is_computed_holds_all_that_photographs_cover(
    x: float, y: float, angle: float, scale: float, width: int, height: int
) -> None:
    matrix = np.array([[math.cos(angle), -math.sin(angle), x], [math.sin(angle), math.cos(angle), y]])
    matrix[:, :2] *= scale
    part = covered_part(matrix, 20.0, height, width)
    assert 0 <= part.left < part.left + part.width <= width and 0 <= part.top < part.top + part.height <= height
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for row, column in np.ndindex(height, width):
        place = back @ [column + 0.5, row + 0.5, 1.0]
        if 0 <= place[0] <= 20 and 0 <= place[1] <= 20:
            assert part.left <= column < part.left + part.width and part.top <= row < part.top + part.height


def test_outside_of_the_photographs_nothing_changes() -> None:
    """In a crop that is wider than they are, of which only a part is computed: near the face as on the whole crop."""
    network = secnet(BRANCH, strength=0.5)
    face = with_face(clip()[0], [points_at(0)]).faces[0]
    crop, image = Crop(0, 0, 80, 64), torch.rand(3, 256, 320, generator=torch.Generator().manual_seed(4))
    references = engine_of(network)._references
    found, weights = references.refer(image, face, crop, 0, 4 * EYES)
    changed = (found != image).any(0).nonzero()
    assert changed.amin(0).tolist() > [0, 0] and changed.amax(0).tolist() < [180, 180] and len(weights) == 2
    side = 8 * math.ceil(CANVAS * EYES * 4 / 8)
    target = side / 2 + 4 * EYES * UPRIGHT
    pose = torch.from_numpy(similarity_between(points_at(0), target / 4)).float().expand(1, 2, -1, -1)
    whole = network.refer(image[None], PosedReferences(references._describe(1, 4 * EYES), pose))
    middle = slice(48, 88), slice(76, 116)  # around the face at (24, 17) * 4
    torch.testing.assert_close(found[:, *middle], whole.image[0][:, *middle].clamp(0, 1), atol=5e-3, rtol=0)
    assert weights == pytest.approx(mean_weights(whole), abs=1e-2) and (found - image)[:, *middle].abs().max() > 1e-2
