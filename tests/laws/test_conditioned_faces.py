"""The face engine with an estimator of degradation: each face has its own levels, which go on when its crop moves."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws.test_face_engine import CPU, Crops, assert_same, cropped, crops_by_frame, noise, run, turned
from tests.support.rounding import rounding_gap
from tests.support.tiny_networks import paper_network
from tests.support.torch_threads import torch_threads
from tests.unit.test_conditioning import NONE, Overrides, conditioned_network
from vidsr.engines.recurrent import RecurrentEngine, advance, merge_ensemble, prepare_frame
from vidsr.errors import UsageError
from vidsr.faces.engine import FaceEngine, FaceStream
from vidsr.nets.layers.conditioning import overrides_tensor, smooth
from vidsr.nets.secnet.network import SECNet
from vidsr.stages.saving import freeze, thaw
from vidsr.types import Crop, Frame

pytestmark = pytest.mark.numeric

# That of the recipe secnet-fast-face-real, a simpler one, and one that runs once, as for large faces.
FORMS: dict[str, dict[str, Any]] = {
    "recipe": {"t1": 2, "t2": 2, "attention": True, "mirrored": True},
    "mirrored": {"mirrored": True},
    "once": {},
}
ZEROS: Overrides = (0.0, 0.0, 0.0)
CROP = Crop(8, 16, 24, 16)


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """With two threads, the halves of a batch run in parallel."""
    with torch_threads(request.param):
        yield


def changing(length: int, height: int = 32, width: int = 56) -> list[Frame]:
    """Noise that grows weaker from frame to frame and from left to right, so that no two estimates agree."""
    sides = torch.linspace(1, 0.2, width)
    return [
        replace(frame, image=0.5 + (frame.image - 0.5) * sides / (1 + t))
        for t, frame in enumerate(noise(length, height, width))
    ]


def forward(network: SECNet, frames: Sequence[Frame], crop: Crop, overrides: Overrides = NONE) -> list[Tensor]:
    """The results of the network's `forward` on the cropped clip."""
    clip = torch.stack([cropped(frame, crop) for frame in frames])[None]
    levels = overrides_tensor(overrides)
    results = network(clip, overrides=levels).results[0].clamp(0, 1)
    if network.config.mirrored:
        mirrored = network(clip.flip(-1), overrides=levels).results[0].clamp(0, 1)
        results = (results + mirrored.flip(-1)) / 2
    return list(results)


@cache
def gap(form: str) -> float:
    """How far two results of this form's network may lie apart whose sums were added in another order."""
    frames = changing(7)
    return rounding_gap(conditioned_network(**FORMS[form]), lambda network: torch.stack(forward(network, frames, CROP)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("levels", [NONE, ZEROS, (None, 0.9, None)])
def test_static_crop_equals_forward(form: str, length: int, levels: Overrides) -> None:
    network, frames = conditioned_network(**FORMS[form]), changing(length)
    results = run(FaceEngine(network, CPU, "fp32", levels=levels), frames, [{1: CROP}] * length)[1]
    assert_same(results, forward(network, frames, CROP, levels), gap(form))
    if levels != NONE:
        estimated = forward(network, frames, CROP)
        assert max((image - own).abs().max() for (_, image, *_), own in zip(results, estimated, strict=True)) > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_faces_are_independent(form: str) -> None:
    """Faces of one size are a batch, each of them with its own levels."""
    network, frames = conditioned_network(**FORMS[form]), changing(12)
    lives = {
        1: (Crop(0, 0, 16, 16), 0, 12),
        2: (Crop(40, 16, 16, 16), 3, 12),
        3: (Crop(16, 8, 16, 16), 3, 6),
        4: (Crop(8, 8, 24, 16), 2, 9),
        5: (Crop(0, 16, 16, 16), 10, 11),
        6: (Crop(32, 8, 16, 16), 0, 8),
    }
    results = run(FaceEngine(network, CPU, "fp32"), frames, crops_by_frame(lives, len(frames)))
    for track, (crop, first, end) in lives.items():
        assert_same(results[track], forward(network, frames[first:end], crop), gap(form))


def smoothed_along(network: SECNet, frames: Sequence[Frame], path: Sequence[Crop]) -> list[Tensor]:
    """The mean levels up to each frame, from the estimate at the crop that the face had when the frame came."""
    assert network.estimator is not None
    found: list[Tensor] = []
    for frame, crop in zip(frames, path, strict=True):
        image = cropped(frame, crop)[None]
        both = torch.cat((image, image.flip(-1))) if network.config.mirrored else image
        found.append(smooth(network.estimator(both).overall, found[-1] if found else None))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_moved_crop_keeps_the_levels(form: str) -> None:
    """It moves before the first result, from noise to where there is little; local levels are those of the new crop."""
    network, frames, after = conditioned_network(**FORMS[form]), changing(6), Crop(32, 8, 16, 24)
    path = [CROP] * network.config.lookahead
    path += [after] * (len(frames) - len(path))
    results = run(FaceEngine(network, CPU, "fp32"), frames, [{1: crop} for crop in path])[1]

    def expected(levels: Sequence[Tensor]) -> list[Tensor]:
        window = [
            replace(prepare_frame(network, frame, cropped(frame, after)), smoothed=each)
            for frame, each in zip(frames, levels, strict=True)
        ]
        past, images = None, []
        for here in range(len(window)):
            image, past = advance(network, window, here, past)
            images.append(merge_ensemble(network, image, window[here].image))
        return images

    with torch.inference_mode():
        assert_same(results, expected(smoothed_along(network, frames, path)), gap(form))
        restarted = expected(smoothed_along(network, frames, [after] * len(frames)))
    assert (results[0].image - restarted[0]).abs().max() > 10 * gap(form), "where its levels are from does not show"


@pytest.mark.parametrize("form", FORMS)
def test_levels_go_on_while_a_crop_moves_and_changes_its_size(form: str) -> None:
    network, frames = conditioned_network(**FORMS[form]), changing(12)
    path = [Crop(8 * (t // 2), 8, 16 + 8 * (t // 5 % 2), 16) for t in range(len(frames))]
    engine, streams = FaceEngine(network, CPU, "fp32"), {}
    levels = smoothed_along(network, frames, path)
    for t, (frame, crop) in enumerate(zip(frames, path, strict=True)):
        _, streams = engine.step(frame, {1: crop}, streams)
        window = streams[1].window
        for each, wanted in zip(window, levels[t + 1 - len(window) : t + 1], strict=True):
            assert each.smoothed is not None and each.estimate is not None and network.estimator is not None
            torch.testing.assert_close(each.smoothed, wanted, atol=1e-5, rtol=0)
            local = network.estimator(cropped(each.frame, crop)[None]).local
            torch.testing.assert_close(each.estimate.local[:1], local, atol=1e-5, rtol=0)
    assert levels[-1][0, 3] == 10, "the weight of a new frame has its lowest value"


@pytest.mark.parametrize("form", FORMS)
def test_levels_of_a_frame_replace_the_estimate(form: str) -> None:
    network = conditioned_network(**FORMS[form])
    plain = changing(4)
    given = [replace(frame, levels=torch.tensor([[0.9, 0.1, 0.2 * t]])) for t, frame in enumerate(plain)]
    found, estimated = (
        run(FaceEngine(network, CPU, "fp32"), frames, [{1: CROP, 2: Crop(16, 0, 24, 16)}] * 4)[1]
        for frames in (given, plain)
    )
    engine = RecurrentEngine(network, "test", CPU, "fp32")
    state, whole = engine.init_state(CROP.height, CROP.width), list[Frame]()
    for frame in given:
        ready, state = engine.step(frame.with_image(cropped(frame, CROP)), state)
        whole += ready
    assert_same(found, [frame.image for frame in whole + engine.flush(state)], gap(form))
    assert (found[0].image - estimated[0].image).abs().max() > 0.01


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotated_video_has_the_same_results(quarters: int) -> None:
    network, frames = conditioned_network(**FORMS["recipe"]), changing(6)
    path = [CROP] * 3 + [Crop(16, 8, 16, 24)] * 3
    coded = [frame.with_image(torch.rot90(frame.image, -quarters, (1, 2))) for frame in frames]
    plan: list[Crops] = [{1: turned(crop, -quarters, 32, 56)} for crop in path]
    upright = run(FaceEngine(network, CPU, "fp32"), frames, [{1: crop} for crop in path])[1]
    for (_, image, *_), (_, wanted, *_) in zip(
        run(FaceEngine(network, CPU, "fp32", quarters), coded, plan)[1], upright, strict=True
    ):
        torch.testing.assert_close(torch.rot90(image, quarters, (1, 2)), wanted, atol=gap("recipe"), rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_the_state_can_be_saved_and_restored(form: str) -> None:
    """As a long job saves it."""
    network, frames = conditioned_network(**FORMS[form]), changing(9)
    engine, streams = FaceEngine(network, CPU, "fp32"), {}
    for frame in frames[:5]:
        _, streams = engine.step(frame, {1: CROP, 2: Crop(24, 0, 24, 16)}, streams)
    file = io.BytesIO()
    torch.save(freeze(streams), file)
    file.seek(0)
    loaded: dict[int, FaceStream] = thaw(torch.load(file, weights_only=True))

    def going_on(engine: FaceEngine, streams: Mapping[int, FaceStream]) -> list[Tensor]:
        images = []
        for frame in frames[5:]:
            ready, streams = engine.step(frame, {1: Crop(16, 8, 24, 24), 2: Crop(24, 0, 24, 16)}, streams)
            images += [image for _, image, *_ in ready.values()]
        return images + [image for rest in engine.flush(streams, [1, 2]).values() for _, image, *_ in rest]

    kept = going_on(engine, streams)
    assert len(kept) == 2 * (4 + engine.lookahead)
    for images in (going_on(engine, streams), going_on(FaceEngine(network, CPU, "fp32"), loaded)):
        assert all(torch.equal(one, other) for one, other in zip(kept, images, strict=True))


def test_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="does not take degradation levels: choose a model with an estimator"):
        FaceEngine(paper_network(), CPU, "fp32", levels=ZEROS)
    with pytest.raises(UsageError, match=r"must be in 0\.\.1"):
        FaceEngine(conditioned_network(), CPU, "fp32", levels=(None, 1.5, None))
