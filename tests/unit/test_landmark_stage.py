"""The landmark smoothing stage: a separate stream for each run of frames with faces, frames in order."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidsr.faces.landmark_smoothing import LandmarkSmoother, LandmarkSmoothing, SmoothingConfig
from vidsr.stages.base import through
from vidsr.types import Face, Frame

SIDE = 48
TEXTURE = torch.from_numpy(np.random.default_rng(0).random((3, 12, 12))).float()
PICTURE = torch.nn.functional.interpolate(TEXTURE[None], size=(SIDE + 40, SIDE + 40), mode="bicubic")[0].clamp(0, 1)
POINTS = np.array([[18.0, 18.0], [30.0, 18.0], [24.0, 24.0], [19.0, 30.0], [29.0, 30.0]])


def frame(index: int, tracks: tuple[int, ...], starts_scene: bool = False) -> Frame:
    """The image moves one pixel per frame; each face has its own noise and is not detected in every fifth frame."""
    shift = index % 20
    image = PICTURE[:, shift : shift + SIDE, shift : shift + SIDE]
    faces = []
    for track in tracks:
        noise = np.random.default_rng([index, track]).normal(0, 0.5, POINTS.shape)
        points = tuple((float(x), float(y)) for x, y in POINTS - shift + 8 + noise)
        faces.append(Face((10.0, 10.0, 28.0, 28.0), points, 0.9, track, index % 5 != 4))
    return Frame(image, index, Fraction(1, 25), 1, starts_scene, tuple(faces))


def oracle(frames: list[Frame], lookahead: int) -> list[dict[int, np.ndarray]]:
    """Smooths each run of frames with faces in one scene separately."""
    results: list[dict[int, np.ndarray]] = []
    run: list[Frame] = []

    def finish() -> None:
        smoother = LandmarkSmoother(SmoothingConfig(lookahead=lookahead))
        state, found = smoother.init_state(), []
        for each in run:
            gray = (each.image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).mul(255).round()
            seen = {
                face.track: np.array(face.landmarks) if face.is_found else np.full((5, 2), np.nan)
                for face in each.faces
            }
            ready, state = smoother.step(gray.clamp(0, 255).byte().numpy(), seen, state)
            found += ready
        found += smoother.flush(state)
        for each, of_frame in zip(run, found, strict=True):
            raw = {face.track: np.array(face.landmarks) for face in each.faces}
            results.append({
                track: np.where(np.isfinite(of_frame[track].points), of_frame[track].points, raw[track])
                for track in raw
            })  # fmt: skip
        run.clear()

    for each in frames:
        if each.starts_scene or not each.faces:
            finish()
        if each.faces:
            run.append(each)
        else:
            results.append({})
    finish()
    return results


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from([(), (1,), (1, 2), (2,)]), st.integers(0, 9)), min_size=1, max_size=14),
    st.sampled_from([0, 2, 4]),
)
def test_each_scene_and_each_gap_is_a_separate_stream(rows: list[tuple[tuple[int, ...], int]], lookahead: int) -> None:
    frames = [frame(i, tracks, chance == 0) for i, (tracks, chance) in enumerate(rows)]
    results = list(through(LandmarkSmoothing(lookahead), frames))
    assert [(each.pts, each.starts_scene) for each in results] == [(each.pts, each.starts_scene) for each in frames]
    for given_frame, result, wanted in zip(frames, results, oracle(frames, lookahead), strict=True):
        assert result.image is given_frame.image
        assert [face.track for face in result.faces] == [face.track for face in given_frame.faces]
        for face in result.faces:
            assert face.smoothed is not None
            np.testing.assert_allclose(face.smoothed, wanted[face.track], atol=1e-9)


@pytest.mark.parametrize("lookahead", [0, 4])
def test_delay_of_frames_is_as_documented(lookahead: int) -> None:
    taken = 0

    def source() -> Iterator[Frame]:
        nonlocal taken
        for i in range(12):
            taken += 1
            yield frame(i, (1,))

    for done, result in enumerate(through(LandmarkSmoothing(lookahead), source())):
        assert result.pts == done
        assert taken <= done + lookahead + 1
