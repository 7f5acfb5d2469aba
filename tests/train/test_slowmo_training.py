"""Training of Zooming SlowMo: losses by hand, the right frames on either side of them, and a loop that learns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.laws.test_slowmo_engine import run
from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from tests.support.tiny_training_data import moving, tiny_recipe, training_folder, write_clip
from vidsr.config import ComputeConfig
from vidsr.engines.select import select, select_card
from vidsr.engines.slowmo import SlowmoEngine
from vidsr.errors import InputError, ModelError, UsageError
from vidsr.evaluation.metrics import to_8_bits
from vidsr.models.cards import list_cards, list_presets, read_card
from vidsr.models.loading import describe, verify
from vidsr.models.registry import build
from vidsr.nets.layers.conditioning import Estimator
from vidsr.nets.layers.resize import resize
from vidsr.nets.zsm.network import GuidedOutput, ZoomingSlowMo
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batch, Batches
from vidsr.train.dataset import Item, find_training_files
from vidsr.train.degrade import degrade_alternate, degrade_bd, degrade_bi
from vidsr.train.degrade_real import degrade_real_alternate
from vidsr.train.initialization import start_from
from vidsr.train.loop import train, train_step, validate
from vidsr.train.losses import slowmo_losses
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import DataConfig, DegradationConfig, GuidanceConfig, OptimizationConfig, RealConfig, Recipe
from vidsr.train.trainer import TrainOptions
from vidsr.types import Frame
from vidsr.video.roundtrip import codec_roundtrip

CPU = torch.device("cpu")
CLEAN = DegradationConfig(weight_blur=0, weight_area=0, noise_share=0, jpeg_share=0, h264_share=0)
DATA = DataConfig(crop=32, frames=7, batch=2, burn_in_share=0, holdout_clips=2)
TINY_ZSM: dict[str, Any] = {
    "width": 8, "front_blocks": 1, "back_blocks": 1, "levels": 2, "kernel": 1, "groups": 2, "state_width": 4,
    "state_levels": 1, "state_sides": 1, "upsampler_width": 0, "synthesis_blocks": 1, "shared_sides": True,
    "residual": True,
}  # fmt: skip
PROVENANCE = Provenance("MIT", "noise", "none", "a test machine")
RECIPE = replace(
    tiny_recipe(
        DATA,
        DegradationConfig(noise_share=0.3, jpeg_share=0.3, h264_share=0),
        OptimizationConfig(steps=3, learning_rate=3e-3, warmup_steps=1, validate_every=2),
    ),
    architecture="zsm",
    network=TINY_ZSM,
    guidance=GuidanceConfig(),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("data"))


def options(data: Path, output: Path, **more: Any) -> TrainOptions:
    return TrainOptions(data, output, **({"workers": 0} | more))


def tiny_network(seed: int = 0) -> ZoomingSlowMo:
    torch.manual_seed(seed)
    return build("zsm", TINY_ZSM)


def clip_of(count: int, seed: int = 3, size: int = 64) -> Tensor:
    return torch.from_numpy(moving(count, size, size, seed)).permute(0, 3, 1, 2).float() / 255


# ---------------------------------------------------------------------------------------------------------- losses


def flat(values: list[float], size: int) -> Tensor:
    """One clip of frames, each of one gray level."""
    return torch.tensor(values).view(1, -1, 1, 1, 1).expand(1, len(values), 3, size, size)


def test_equations_6_7_to_6_10_by_hand() -> None:
    """Five frames, three of them input frames. Penalty of a difference d with epsilon 0.4: sqrt(d^2 + 0.16).

    Results: 0.3 off in two frames of five, 0.5 and 0.4. Frames 2 and 4 of the head: exact, and 0.3 off; frame 3
    from features interpolated twice: 0.3 off.
    """
    truth, guides = flat([0.1, 0.2, 0.3, 0.4, 0.5], 8), flat([0.0, 0.2, 0.4, 0.6, 0.8], 2)
    output = GuidedOutput(flat([0.4, 0.2, 0.3, 0.4, 0.2], 8), flat([0.2, 0.9], 2), flat([0.7], 2))
    losses = slowmo_losses(output, truth, guides, GuidanceConfig(2.0, 0.5, 0.25), 0.4)
    expected = (2 * 0.5 + 3 * 0.4) / 5, (0.4 + 0.5) / 2, 0.5
    assert [float(x) for x in losses[1:]] == pytest.approx(expected)
    assert float(losses.total) == pytest.approx(2 * expected[0] + 0.5 * expected[1] + 0.25 * expected[2])


def test_the_head_learns_only_from_the_guides() -> None:
    """Frames 1 and 7 are in neither (6.8) nor (6.9), so their guides do not matter."""
    clip = clip_of(7)
    guides = degrade_bi(clip)[None]
    output = tiny_network().forward_guided(guides[:, ::2])
    once = slowmo_losses(output, clip[None], guides, GuidanceConfig(), 1e-3)
    other = guides.clone()
    other[:, [0, -1]] += 0.5
    assert slowmo_losses(output, clip[None], other, GuidanceConfig(), 1e-3) == once
    for index, part in ((1, "first"), (2, "second"), (3, "first"), (4, "second"), (5, "first")):
        other = guides.clone()
        other[:, index] += 0.5
        changed = slowmo_losses(output, clip[None], other, GuidanceConfig(), 1e-3)._asdict()
        assert {key for key, value in once._asdict().items() if changed[key] != value} == {"total", part}


# --------------------------------------------------------------------------------------------------------- samples


def test_odd_frames_are_the_input_and_all_are_the_truth(data: Path, tmp_path: Path) -> None:
    clip = clip_of(7, size=48)
    item = Item(write_clip(tmp_path / "clip.avi", moving(9, 48, 64, 1)), "general", "clip", "A")
    recipe = replace(RECIPE, degradation=CLEAN)
    batch = Batches(recipe, [item], tmp_path / "frames", None)[0]
    assert batch.low.shape == (2, 4, 3, 8, 8) and batch.truth.shape == (2, 7, 3, 32, 32)
    assert batch.guides is not None and batch.guides.shape == (2, 7, 3, 8, 8) and batch.burn_in == 0
    for b in range(2):
        torch.testing.assert_close(batch.guides[b], degrade_bi(batch.truth[b]), atol=0, rtol=0)
        torch.testing.assert_close(batch.low[b], degrade_bi(batch.truth[b, [0, 2, 4, 6]]), atol=0, rtol=0)
    low, guides = degrade_alternate(clip, CLEAN, np.random.default_rng(0), None)
    assert torch.equal(low, guides[::2]) and torch.equal(guides, degrade_bi(clip))


def test_only_input_frames_have_noise_and_the_guides_are_as_sharp() -> None:
    noisy = replace(CLEAN, weight_bicubic=0, weight_blur=1, blur_paper_share=1, noise_share=1, noise_sigma=(8.0, 8.0))
    clip = clip_of(7)
    low, guides = degrade_alternate(clip, noisy, np.random.default_rng(1), None)
    assert torch.equal(guides, degrade_bd(clip))
    assert float((low - guides[::2]).std()) == pytest.approx(8 / 255, rel=0.1)


def real_recipe(**real: Any) -> Recipe:
    return replace(
        RECIPE, network=TINY_ZSM | {"estimator_width": 4, "modulation_width": 4}, degradation=CLEAN,
        real=RealConfig(**real),
    )  # fmt: skip


def test_an_encoder_sees_every_second_frame_with_those_before_the_sample(data: Path, tmp_path: Path) -> None:
    """The encoder's frames follow each other in the input video; the frames between are truth, and never seen."""
    seen: list[int] = []

    def codec(frames: np.ndarray, _codec: str, _options: Mapping[str, str]) -> np.ndarray:
        seen.append(len(frames))
        return np.full_like(frames, len(seen))

    recipe = real_recipe(clean_share=0, encode_share=1, twice_share=0, noise_share=0, blur_share=0, lead_frames=3)
    items = find_training_files(data, recipe.data.licence_classes)
    made = Batches(recipe, items, tmp_path / "frames", None, codec)
    lows = []
    for index in range(6):
        batch = made[index]
        assert batch.low.shape == (2, 4, 3, 8, 8) and batch.truth.shape == (2, 7, 3, 32, 32)
        assert batch.guides is not None and batch.guides.shape == (2, 7, 3, 8, 8)
        assert batch.quantities is not None and batch.overrides is not None
        # As sharp as the input frames, which differ from plain reductions by what was drawn, but not encoded.
        reduced = torch.stack([degrade_bi(clip) for clip in batch.truth])
        assert (batch.guides - reduced).abs().mean() < 0.1
        lows += list(batch.low)
    assert {count - 4 for count in seen} == {0, 1, 2, 3}
    is_encoded = [float(low.std()) < 1e-6 for low in lows]
    assert sum(is_encoded) == len(seen) > 6, "the others are JPEG images"


def test_without_degradation_real_samples_are_those_of_clean_training() -> None:
    clip, clean = clip_of(9), RealConfig(clean_share=1.0)
    generators = [np.random.default_rng(2) for _ in range(2)]
    generators[1].random()  # whether the sample is clean
    low, guides, applied = degrade_real_alternate(clip, CLEAN, clean, generators[0], codec_roundtrip)
    expected, whole = degrade_alternate(clip, CLEAN, generators[1], None)
    assert torch.equal(low, expected) and torch.equal(guides, whole)
    assert applied.values()[1:] == (0.0, 0.0)


def test_input_frames_are_compressed_as_one_video() -> None:
    """A codec that also sees the frames between would leak what the network has to find."""
    seen: list[np.ndarray] = []

    def codec(frames: np.ndarray, crf: int) -> np.ndarray:
        seen.append(frames)
        return 255 - frames

    clip = clip_of(7)
    low, guides = degrade_alternate(clip, replace(CLEAN, h264_share=1), np.random.default_rng(1), codec)
    assert len(seen) == 1 and len(seen[0]) == 4
    torch.testing.assert_close(low, 1 - degrade_bi(clip)[::2])
    assert torch.equal(guides, degrade_bi(clip))


def test_strides_are_even_and_fit_the_clip_in_both_directions(tmp_path: Path) -> None:
    """Of 15 frames 7 can be taken at strides 1 and 2; at 3 the clip would have to be reversed."""
    shades = np.arange(15, dtype=np.uint8)[:, None, None, None] * 16 + np.zeros((15, 48, 48, 3), np.uint8)
    item = Item(write_clip(tmp_path / "shades.avi", shades), "general", "shades", "A")
    wide = replace(DATA, max_stride_general=3, frozen_share=0, batch=8)
    source = Batches(replace(RECIPE, data=wide, degradation=CLEAN), [item], tmp_path / "frames", None)
    steps = {
        tuple((clip.mean(dim=(1, 2, 3)) * 255 / 16).round().diff().int().tolist())
        for index in range(3)
        for clip in source[index].truth
    }
    assert steps == {(step,) * 6 for step in (-2, -1, 1, 2)}


# -------------------------------------------------------------------------------------------------------- learning


def test_a_few_steps_reduce_the_loss() -> None:
    network, clip = tiny_network(), clip_of(7)
    guides = degrade_bi(clip)[None]
    batch = Batch(guides[:, ::2], clip[None], 0, guides)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    parts = [train_step(network, batch, optimizer, RECIPE, CPU) for _ in range(15)]
    assert set(parts[0]) == {"total", "result", "first", "second", "gradient_norm"}
    for key in ("total", "result", "first"):
        assert parts[-1][key] < 0.9 * parts[0][key], key
    weights = RECIPE.guidance
    assert weights is not None
    for step in parts:
        sums = weights.lambda_1 * step["result"] + weights.lambda_2 * step["first"] + weights.lambda_3 * step["second"]
        assert step["total"] == pytest.approx(sums, rel=1e-4)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(RECIPE, options(data, output))
    return output


def test_a_run_stopped_after_every_step_gives_the_same_weights(data: Path, whole: Path, tmp_path: Path) -> None:
    for step in range(1, 4):
        torch.manual_seed(step)
        train(RECIPE, options(data, tmp_path / "run", stop_after_minutes=0.0))
        assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == step
    expected, resumed = load_checkpoint(whole / "last.pt"), load_checkpoint(tmp_path / "run" / "last.pt")
    for part in ("network", "average"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in expected[part].items()), part
    fresh = tiny_network(RECIPE.seed).state_dict()
    assert not all(torch.equal(value, fresh[name]) for name, value in expected["network"].items())


def test_the_log_scores_input_and_interpolated_frames_apart(whole: Path) -> None:
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    scores = [entry for entry in log if "psnr_synthetic" in entry]
    assert [entry["step"] for entry in scores] == [2, 3]
    assert all(set(entry) == {"step", "seconds", "psnr_existing", "psnr_synthetic"} for entry in scores)
    assert all(math.isfinite(value) for entry in log for value in entry.values())
    best = load_checkpoint(whole / "best.pt")["best"]
    assert best == pytest.approx(max(entry["psnr_existing"] + entry["psnr_synthetic"] for entry in scores))


class Blend(ZoomingSlowMo):
    """Bicubic enlargement; frames between are the mean of their neighbors."""

    def forward(self, clip: Tensor) -> Tensor:
        results = torch.stack([resize(frame, (64, 64)) for frame in clip[0]])
        between = (results[1:] + results[:-1]) / 2
        return torch.stack([x for pair in zip(results, between, strict=False) for x in pair] + [results[-1]])[None]


@pytest.mark.parametrize("count, used", [(10, 7), (7, 7), (6, 5), (3, 3)])
def test_validation_psnr_of_a_blend_by_hand(count: int, used: int) -> None:
    clip = clip_of(count)
    large = resize(degrade_bi(clip[:used:2]), (64, 64))
    between = (large[1:] + large[:-1]) / 2
    expected = {}
    for name, result, truth in (
        ("psnr_existing", large, clip[:used:2]), ("psnr_synthetic", between, clip[1:used:2]),
    ):  # fmt: skip
        error = (to_8_bits(result) - truth)[..., 8:-8, 8:-8].double().square().mean()
        expected[name] = -10 * math.log10(error)
    blend = Blend(tiny_network().config)
    assert validate(blend, [clip], CPU) == pytest.approx(expected, abs=0.02)
    # two clips count alike
    still = torch.zeros(3, 3, 64, 64)
    assert validate(blend, [clip, still], CPU)["psnr_existing"] == pytest.approx(
        (expected["psnr_existing"] + 100) / 2, abs=0.02
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_with_an_estimator_it_starts_as_the_network_without(tmp_path: Path, batch: int) -> None:
    """Bit for bit, also where the weights are modulated instead of the pixels (batch size 1)."""
    plain = slowmo_network("fast")
    estimator = {f"estimator.{name}": value for name, value in Estimator(4).state_dict().items()}
    save_file(plain.state_dict() | estimator, tmp_path / "start.safetensors")
    network = build("zsm", SLOWMO_FORMS["conditioned"]).requires_grad_(False).eval()
    start_from(network, tmp_path / "start.safetensors")
    clip = torch.rand(batch, 4, 3, 18, 23, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(clip), plain(clip))
    guided, expected = network.forward_guided(clip), plain.forward_guided(clip)
    assert all(torch.equal(*pair) for pair in zip(guided[:3], expected[:3], strict=True))
    assert guided.estimates is not None and expected.estimates is None
    overall, local = guided.estimates
    assert overall.shape == (batch, 4, 3) and local.shape == (batch, 4, 3, 5, 6)
    for image, each in zip(clip[0], overall[0], strict=True):
        torch.testing.assert_close(network.estimator.logits(image[None]).overall[0], each, atol=1e-5, rtol=0)
    frames = [Frame(image, t, Fraction(1, 25), 1, t == 0) for t, image in enumerate(clip[0])]
    engines = [SlowmoEngine.of_network(each, "", CPU, "fp32", is_overlapped=False) for each in (network, plain)]
    results = [[frame.image for frame in run(engine, frames)] for engine in engines]
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_with_an_estimator_it_learns_realistic_degradation(data: Path, tmp_path: Path, is_frozen: bool) -> None:
    recipe, entries = real_recipe(estimator_frozen=is_frozen), list[dict[str, float]]()
    saved = load_checkpoint(train(recipe, options(data, tmp_path / "run"), entries.append))
    torch.manual_seed(recipe.seed)
    fresh = build("zsm", recipe.network).state_dict()
    changed = {name for name, value in saved["network"].items() if not torch.equal(value, fresh[name])}
    assert {"tune_trunk.tune.weight", "tune_features.add.weight", "conv_first.weight"} <= changed
    assert any(name.startswith("estimator.") for name in changed) != is_frozen
    losses = [entry for entry in entries if "total" in entry]
    assert losses and all(("estimate" in entry) != is_frozen for entry in losses)
    scores = [set(entry) - {"step", "seconds"} for entry in entries if "psnr_existing" in entry]
    kinds = ("psnr_existing", "psnr_synthetic")
    assert scores == [{*kinds, *(f"{kind}_jpeg" for kind in kinds)}] * 2


# -------------------------------------------------------------------------------------------------------- refusals


def changed(part: str, **values: Any) -> Recipe:
    return replace(RECIPE, **{part: replace(getattr(RECIPE, part), **values)})


@pytest.mark.parametrize(
    "recipe, reason",
    [
        (replace(RECIPE, guidance=None), r"needs the table \[guidance\]"),
        (replace(RECIPE, network=TINY_ZSM | {"synthesis_blocks": 0, "residual": False}), "synthesis_blocks"),
        (replace(RECIPE, real=RealConfig(), degradation=CLEAN), r"needs the table \[real\] for network"),
        (replace(real_recipe(), real=None), r"needs the table \[real\] for network"),
        (real_recipe(estimator_only="results"), "needs real.estimator_only to be left out"),
        (changed("data", frames=3), "odd number of frames, 5 or more"),
        (changed("data", frames=6), "odd number of frames, 5 or more"),
        (changed("data", burn_in_share=0.1), "burn_in_share to 0"),
        (changed("optimisation", fusion_steps=1), "fusion_steps to 0"),
        (replace(RECIPE, architecture="secnet", network={}), "secnet network, which cannot use"),
    ],
)
def test_a_recipe_that_does_not_fit_its_network_is_refused(
    data: Path, tmp_path: Path, recipe: Recipe, reason: str
) -> None:
    with pytest.raises(UsageError, match=f"the recipe 'tiny' trains .*{reason}"):
        train(recipe, options(data, tmp_path / "run"))
    assert not (tmp_path / "frames").exists()


def test_a_validation_clip_of_two_frames_is_an_input_error(tmp_path: Path) -> None:
    for index in range(3):
        write_clip(tmp_path / f"{index}.avi", moving(2, 48, 64, index))
    with pytest.raises(InputError, match=r"the validation clip .*\.avi has 2 frames: it needs at least 3"):
        train(RECIPE, options(tmp_path, tmp_path / "run"))


# ------------------------------------------------------------------------------------------------ published models


def test_a_published_model_is_complete_and_not_for_upscaling(whole: Path, tmp_path: Path) -> None:
    path = publish_model(RECIPE, Path("tiny.toml"), whole / "best.pt", tmp_path / "models", PROVENANCE)
    card = read_card(path)
    assert (card.architecture, card.scale, card.lookahead) == ("zsm", 4, 3)
    assert 0 <= verify(card) < 1e-3
    assert load_file(card.weights_path).keys() == load_checkpoint(whole / "best.pt")["average"].keys()
    with pytest.raises(ModelError, match="the model 'tiny' interpolates frames between those of the input"):
        select(ComputeConfig(model=str(path)), "upscale", 16, 16)


def test_presets_for_slow_motion_are_listed_but_not_chosen_for_upscaling() -> None:
    of_zsm = [preset.name for preset in list_presets() if preset.architecture == "zsm"]
    assert {"zsm", "zsm-fast"} <= set(of_zsm)
    for name in of_zsm:
        with pytest.raises(ModelError, match=f"the model '{name}' interpolates frames"):
            select_card(name, "upscale")
    values = describe("zsm-fast")
    assert values["scale"] == 4
    if "zsm-fast" not in {card.name for card in list_cards()}:
        assert values["trained"] is False and "recipes/zsm-fast.toml" in values["train_command"]
    assert values["multiply_adds_per_pixel"] == pytest.approx(252_744)
