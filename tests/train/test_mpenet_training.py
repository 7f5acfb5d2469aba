"""Training on clips of faces: MPENet's losses by hand in float64, labels and motion of samples, a loop that resumes."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_networks import MPENET_FORMS, NARROW_FORM
from tests.train.test_people import BI, DATA, find, folder  # noqa: F401 - folder is a fixture
from tests.train.test_people import RECIPE as PEOPLE
from vidsr.errors import InputError, UsageError
from vidsr.evaluation.metrics import decibels, to_8_bits
from vidsr.faces.alignment import transformed
from vidsr.models.cards import models_folder, read_card
from vidsr.models.loading import verify
from vidsr.models.registry import build
from vidsr.nets.layers.resize import resize
from vidsr.nets.mpenet.alignment import draw_heatmaps
from vidsr.nets.mpenet.network import MPENet, moved
from vidsr.train.adversarial import Adversary, standard_discriminator_loss, standard_generator_loss
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batch
from vidsr.train.dataset import find_training_files
from vidsr.train.degrade import degrade_bi
from vidsr.train.face_clips import MIRRORED, FaceBatches, FaceClip, motions_of
from vidsr.train.loop import TASKS, task_of, train, train_step, validate
from vidsr.train.people import Person, find_people
from vidsr.train.perceptual import VggFaceDistance
from vidsr.train.prior_losses import heatmap_loss, steps_loss, unit_cross_entropy, unit_dice, unit_loss, unit_weights
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import AdversarialConfig, FacesConfig, OptimizationConfig, Recipe, load_recipe
from vidsr.train.trainer import TrainOptions

CPU = torch.device("cpu")
FACES = FacesConfig(holdout_people=1, face_side=(16.0, 24.0), align_weight=0.5, unit_weight=0.2)
OPTIMIZATION = OptimizationConfig(steps=3, learning_rate=2e-3, warmup_steps=1, validate_every=2, charbonnier_epsilon=0)
RECIPE = replace(
    PEOPLE, architecture="mpenet", network=MPENET_FORMS["fast"] | {"scale": 8}, references=None, faces=FACES,
    data=replace(DATA, frames=2, batch=2), optimisation=OPTIMIZATION,
)  # fmt: skip
SINGLE = replace(
    RECIPE, network=MPENET_FORMS["paper"] | {"scale": 8}, data=replace(DATA, frames=1, batch=2),
    faces=replace(FACES, labels="files"),
)  # fmt: skip


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tiny_network(recipe: Recipe = RECIPE) -> MPENet:
    torch.manual_seed(0)
    network = build("mpenet", recipe.network)
    assert isinstance(network, MPENet)
    return network


def batch_of(network: MPENet, frames: int, burn_in: int = 0) -> Batch:
    truth = torch.nn.functional.interpolate(noise(2 * frames, 3, 4, 4), scale_factor=8.0, mode="bilinear")
    low = degrade_bi(truth, 8).view(2, frames, 3, 4, 4)
    points = 32 * noise(2, frames - burn_in, network.config.points, 2, seed=2)
    motions = torch.eye(2, 3).repeat(2, frames, 1, 1) + 0.1 * noise(2, frames, 2, 3, seed=3)
    count = len(network.config.units)
    units = (noise(2, frames - burn_in, count) > 0.5).float() if count else None
    rates = 0.1 + 0.5 * noise(count) if count else None
    return Batch(low, truth.view(2, frames, 3, 32, 32)[:, burn_in:], burn_in, points=points, motions=motions,
                 units=units, unit_rates=rates)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.numeric
def test_losses_are_those_of_the_equations() -> None:
    """(5) to (9), (11) and (12), value by value in float64; (6) as it is meant, not as printed."""
    scores, labels = 4 * noise(3, 4).double() - 2, (noise(3, 4, seed=2) > 0.6).double()
    rates = torch.tensor([0.5, 0.1, 0.05, 0.3], dtype=torch.float64)
    weights = unit_weights(rates)
    inverse = [1 / float(r) for r in rates]
    np.testing.assert_allclose(weights, [4 * i / sum(inverse) for i in inverse], rtol=1e-12)
    cross = dice = printed = 0.0
    for b in range(3):
        for i in range(4):
            y, w, found = float(labels[b, i]), float(weights[i]), 1 / (1 + math.exp(-float(scores[b, i])))
            cross -= w * (y * math.log(found) + (1 - y) * math.log(1 - found)) / 3
            printed -= w * (found * math.log(found) + (1 - y) * math.log(1 - found)) / 3
            dice += w * (1 - (2 * y * found + 0.7) / (y**2 + found**2 + 0.7)) / 3
    assert float(unit_cross_entropy(scores, labels, weights)) == pytest.approx(cross, rel=1e-12)
    assert float(unit_dice(scores, labels, weights, 0.7)) == pytest.approx(dice, rel=1e-12)
    assert float(unit_loss(scores, labels, weights, 0.7)) == pytest.approx(cross + dice, rel=1e-12)
    assert abs(printed - cross) > 0.05
    images = [noise(2, 3, 4, 5, seed=s).double().numpy() for s in range(3)]
    expected = np.mean([np.mean((image - images[2]) ** 2) for image in images[:2]])
    tensors = [torch.from_numpy(image) for image in images]
    assert float(steps_loss(tensors[:2], tensors[2], 0)) == pytest.approx(expected, rel=1e-12)
    assert float(heatmap_loss(tensors[0], tensors[2])) == pytest.approx(
        np.mean((images[0] - images[2]) ** 2), rel=1e-12
    )
    real, fake = 3 * noise(5).double() - 1, 3 * noise(5, seed=2).double() - 1
    d_real, d_fake = (1 / (1 + np.exp(-each.numpy())) for each in (real, fake))
    assert float(standard_generator_loss(real, fake)) == pytest.approx(-np.log(d_fake).mean(), rel=1e-12)
    expected = -np.log(d_real).mean() - np.log(1 - d_fake).mean()
    assert float(standard_discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.numeric
def test_the_loss_of_a_clip_counts_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame with both steps, the others from the feedback of the one before, moved; (13) adds them up.

    Compared with the same sums in float64.
    """
    monkeypatch.setattr("vidsr.runtime.device.choose_precision", lambda *_: "fp32")
    network = tiny_network().requires_grad_(False)
    batch = batch_of(network, 3)
    assert batch.points is not None and batch.motions is not None
    exact, low, motions = deepcopy(network).double(), batch.low.double(), batch.motions.double()
    first = exact.restore(low[:, 0])
    second = exact.advance(low[:, 1], moved(exact.feedback(first), motions[:, 1]))
    third = exact.advance(low[:, 2], moved(exact.feedback(second), motions[:, 2]))
    errors = [[(image - batch.truth[:, t].double()).square().mean() for image in each.images]
              for t, each in enumerate((first, second, third))]  # fmt: skip
    final = (sum(errors[0]) / 2 + errors[1][0] + errors[2][0]) / 3
    maps = (
        sum(
            (each.heatmaps - draw_heatmaps(batch.points[:, t].double(), 8, 8)).square().mean()
            for t, each in enumerate((first, second, third))
        )
        / 3
    )
    found = TASKS["mpenet"].losses(network, batch, RECIPE, False, None)
    assert float(found["final"]) == pytest.approx(float(final), rel=1e-5)
    assert float(found["heatmaps"]) == pytest.approx(float(maps), rel=1e-5)
    assert float(found["total"]) == pytest.approx(float(final + 0.5 * maps), rel=1e-5)
    later = batch._replace(burn_in=1, truth=batch.truth[:, 1:], points=batch.points[:, 1:])
    found = TASKS["mpenet"].losses(network, later, RECIPE, False, None)
    assert float(found["final"]) == pytest.approx(float(errors[1][0] + errors[2][0]) / 2, rel=1e-5)


@pytest.mark.numeric
def test_the_loss_of_a_single_frame_has_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidsr.runtime.device.choose_precision", lambda *_: "fp32")
    network = tiny_network(SINGLE).eval().requires_grad_(False)
    batch = batch_of(network, 1)
    adversary = Adversary(AdversarialConfig(weight=0.3, kind="standard", width=2, largest=4), 32, CPU)
    recipe = replace(SINGLE, adversarial=AdversarialConfig(weight=0.3, kind="standard", width=2, largest=4))
    found = task_of(network).losses(network, batch, recipe, False, None, adversary)
    restored = network.restore(batch.low[:, 0])
    assert batch.units is not None and batch.unit_rates is not None and restored.units is not None
    expected = unit_loss(restored.units, batch.units[:, 0], unit_weights(batch.unit_rates), 1.0)
    assert float(found["units"]) == pytest.approx(float(expected), rel=1e-5)
    adversary.discriminator.requires_grad_(False)
    fooled = torch.nn.functional.softplus(-adversary.discriminator(restored.images[-1])).mean()
    assert float(found["adversarial"]) == pytest.approx(float(fooled), rel=1e-4)
    total = found["final"] + 0.5 * found["heatmaps"] + 0.2 * found["units"] + 0.3 * found["adversarial"]
    assert float(found["total"]) == pytest.approx(float(total), rel=1e-5)


def test_vgg_face_compares_squares_of_its_last_rectified_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    counts, channels, before = (2, 2, 3, 3, 3), (2, 3, 3, 4, 4), 3
    weights: dict[str, Tensor] = {}
    for stage, (count, width) in enumerate(zip(counts, channels, strict=True), 1):
        for k in range(1, count + 1):
            weights |= {
                f"conv{stage}_{k}.weight": torch.randn(width, before, 3, 3) / 3,
                f"conv{stage}_{k}.bias": torch.randn(width),
            }
            before = width
    torch.save(weights, tmp_path / "face.pth")
    a, b = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=2)
    features = []
    for x in (a, b):
        x = 255 * x.double() - torch.tensor([129.186, 104.762, 93.594], dtype=torch.float64).view(1, 3, 1, 1)
        for stage, count in enumerate(counts, 1):
            for k in range(1, count + 1):
                layer = (weights[f"conv{stage}_{k}.{part}"].double() for part in ("weight", "bias"))
                x = torch.relu(torch.conv2d(x, *layer, padding=1))
            x = torch.max_pool2d(x, 2) if stage < 5 else x
        features.append(x)
    expected = (features[0] - features[1]).square().mean((1, 2, 3))
    found = VggFaceDistance(tmp_path / "face.pth")(a, b)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    torch.save({"conv1_1.weight": weights["conv1_1.weight"]}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="as weights of VGG-Face"):
        VggFaceDistance(tmp_path / "other.pth")


@pytest.mark.parametrize("recipe", [RECIPE, SINGLE], ids=["fast", "paper"])
def test_the_loss_falls(recipe: Recipe) -> None:
    network = tiny_network(recipe)
    batch = batch_of(network, recipe.data.frames)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    totals = [train_step(network, batch, optimizer, recipe, CPU)["total"] for _ in range(8)]
    assert np.mean(totals[-3:]) < 0.97 * totals[0]


def test_the_losses_of_mpegan_fall_while_its_adversary_learns() -> None:
    """The tables of the recipe on a tiny network."""
    recipe = load_recipe(models_folder() / "recipes" / "mpegan-fast.toml")
    assert recipe.adversarial is not None and recipe.correlation is not None
    tiny = replace(RECIPE, correlation=recipe.correlation, adversarial=replace(recipe.adversarial, width=2, largest=4))
    network = tiny_network(tiny)
    assert tiny.adversarial is not None
    adversary = Adversary(tiny.adversarial, DATA.crop, CPU)
    before = [parameter.clone() for parameter in adversary.discriminator.parameters()]
    batch = batch_of(network, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    found = [train_step(network, batch, optimizer, tiny, CPU, adversary=adversary) for _ in range(10)]
    assert np.mean([each["total"] for each in found[-3:]]) < 0.97 * found[0]["total"]
    assert all(each["correlation"] > 0 for each in found)
    assert all(0 < each["adversarial"] < 5 for each in found)
    assert any(not torch.equal(a, b) for a, b in zip(before, adversary.discriminator.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------------- samples


@pytest.fixture(scope="module")
def people(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Person]:  # noqa: F811 - the fixture
    return find_people(find_training_files(folder, (), of_people=True), "", tmp_path_factory.mktemp("cache"), find)


def test_samples_have_the_points_and_motions_of_their_faces(people: list[Person], tmp_path: Path) -> None:
    """In a mirror too: eyes are above the mouth, the left one is left, and the motion brings points to points."""
    batches = FaceBatches(RECIPE, people, tmp_path, None)
    for index in range(4):
        batch = batches[index]
        assert batch.low.shape == (2, 2, 3, 4, 4) and batch.truth.shape == (2, 2, 3, 32, 32)
        assert batch.points is not None and batch.motions is not None and batch.units is None
        for clip, points, motions in zip(batch.truth, batch.points.numpy(), batch.motions.numpy(), strict=True):
            assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 1] > points[:, 0, 1]).all()
            np.testing.assert_allclose(transformed(motions[1], points[1] / 8), points[0] / 8, atol=0.05)
            assert np.array_equal(motions[0], np.eye(2, 3, dtype=np.float32))
            for frame, place in zip(clip, points, strict=True):
                x, y = place.mean(0).astype(int)
                assert frame[:, min(max(y, 0), 31), min(max(x, 0), 31)].max() > 0.4  # on the face, which is bright


def test_a_secnet_trains_on_samples_of_faces(people: list[Person], tmp_path: Path) -> None:
    """At its own scale; it sees all frames of a sample and is scored on the clips of faces that are held out."""
    recipe = replace(
        RECIPE, architecture="secnet", network=NARROW_FORM | {"scale": 4}, data=replace(DATA, frames=3, batch=2)
    )
    network = build("secnet", recipe.network)
    task_of(network).check(network, recipe)
    batches = FaceBatches(recipe, people, tmp_path, None)
    batch = batches[0]
    assert batch.low.shape == (2, 3, 3, 8, 8) and batch.truth.shape == (2, 3, 3, 32, 32)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.9, 0.99))
    totals = [train_step(network, batch, optimizer, recipe, CPU)["total"] for _ in range(10)]
    assert np.mean(totals[-3:]) < 0.9 * totals[0]
    clip, *_ = batches.validation(people)
    scores = validate(network, [clip], CPU)
    bicubic = resize(degrade_bi(clip.truth), (32, 32))
    near = decibels(float((to_8_bits(bicubic.clamp(0, 1)) - clip.truth)[..., 8:-8, 8:-8].square().mean()))
    assert scores["psnr_bi"] == pytest.approx(near, abs=3) and scores.keys() == {"psnr_bi", "psnr_bd"}


def test_mirrored_landmarks_are_landmarks() -> None:
    for count, order in MIRRORED.items():
        assert sorted(order) == list(range(count)) and [order[k] for k in order] == list(range(count))
    assert [MIRRORED[68][k] for k in (0, 8, 17, 21, 27, 31, 36, 39, 41, 48, 51, 60, 62, 65)] == [
        16, 8, 26, 22, 27, 35, 45, 42, 46, 54, 51, 64, 62, 67,
    ]  # fmt: skip


def test_motions_are_similarities_from_each_frame_to_the_one_before() -> None:
    points = np.array([[[8.0, 8.0], [24.0, 8.0], [16.0, 24.0]]])
    turned = (points @ np.array([[0.0, 1.0], [-1.0, 0.0]])) * 1.5 + 4
    motions = motions_of(np.concatenate([points, turned]), 8)
    np.testing.assert_allclose(transformed(motions[1], turned[0] / 8), points[0] / 8, atol=1e-12)
    assert motions_of(points, 8).shape == (1, 2, 3)


def test_labels_come_from_files(people: list[Person], tmp_path: Path) -> None:
    """Landmarks and units of each file; how frequent a unit is counts over all of them."""
    written = []
    for person in people:
        for item, places in zip(person.items, person.places, strict=True):
            points = places[:, None, :2] + np.linspace(0, 1, 68)[:, None] * places[:, None, 2:4]
            units = np.tile([1.0, 0, 0, 1, 0, 0] if person.name == "anna" else [0.0] * 6, (len(places), 1))
            path = item.path.with_name(f"{item.path.name}.labels.npz")
            np.savez(path, points=points, units=units)
            written.append(path)
    try:
        batches = FaceBatches(SINGLE, people, tmp_path, None)
        batch = batches[0]
        assert batch.points is not None and batch.points.shape == (2, 1, 68, 2)
        assert batch.units is not None and batch.units.shape == (2, 1, 6) and batch.unit_rates is not None
        frames = {person.name: sum(map(len, person.places)) for person in people}
        rare = 1 / sum(frames.values())
        share = frames["anna"] * rare
        np.testing.assert_allclose(batch.unit_rates, [share, rare, rare, share, rare, rare], rtol=1e-5)
        np.savez(written[0], points=np.zeros((1, 68, 2)))
        with pytest.raises(InputError, match="do not fit the"):
            FaceBatches(SINGLE, people, tmp_path, None)
        written[0].write_bytes(b"no")
        with pytest.raises(InputError, match="cannot read the labels"):
            FaceBatches(SINGLE, people, tmp_path, None)
    finally:
        for path in written:
            path.unlink()


# ---------------------------------------------------------------------------------------------------------------- loop


def test_it_trains_resumes_validates_and_is_published(
    folder: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vidsr.train.loop.find_faces", find)
    for _ in range(3):
        train(RECIPE, TrainOptions(folder, tmp_path / "run", workers=0, stop_after_minutes=0.0))
    whole = train(RECIPE, TrainOptions(folder, tmp_path / "whole", workers=0))
    stopped, expected = load_checkpoint(tmp_path / "run" / "last.pt"), load_checkpoint(whole)
    assert stopped["step"] == expected["step"] == 3
    for part in ("network", "average"):
        assert all(torch.equal(stopped[part][name], value) for name, value in expected[part].items())
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    scores = [entry for entry in log if "gain_afresh" in entry]
    assert [entry["step"] for entry in scores] == [2, 3] and {"gain_video", "gain_jpeg_video"} < scores[0].keys()
    provenance = Provenance("MIT", "drawn faces", "none", "a test machine")
    path = publish_model(RECIPE, tmp_path / "tiny.toml", tmp_path / "whole" / "best.pt", tmp_path / "out", provenance)
    card = read_card(path)
    assert (card.architecture, card.scale, card.lookahead) == ("mpenet", 8, 0)
    assert verify(card) < 1e-3


def test_scores_are_gains_over_bicubic(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network().eval()
    truth = torch.nn.functional.interpolate(noise(2, 3, 8, 8), scale_factor=8.0, mode="bilinear")
    clip = FaceClip(truth, 64 * noise(2, 5, 2), torch.eye(2, 3).repeat(2, 1, 1))
    monkeypatch.setattr(MPENet, "restore", lambda _, x: _perfect(x, truth))
    scores = validate(network, [clip], CPU)
    assert scores["gain_afresh"] > 30
    assert scores.keys() == {"gain_afresh", "gain_video", "gain_jpeg_afresh", "gain_jpeg_video"}


def _perfect(low: Tensor, truth: Tensor) -> Any:
    from vidsr.nets.mpenet.network import Restored

    found = truth[: len(low)]
    return Restored((found, found), noise(len(low), 5, 16, 16), None, noise(len(low), 4, 16, 16))


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"faces": None}, r"needs the table \[faces\]"),
        ({"network": MPENET_FORMS["fast"]}, "needs network.scale = 8"),
        ({"network": MPENET_FORMS["paper"] | {"scale": 8}}, 'needs faces.labels = "files"'),
        ({"network": MPENET_FORMS["fast"] | {"scale": 8, "steps": 1}}, "needs network.steps of 2 or more for clips"),
        ({"optimisation": replace(OPTIMIZATION, fusion_steps=1)}, "has no pretraining"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change: dict[str, Any], why: str) -> None:
    recipe = replace(RECIPE, **change)
    network = build("mpenet", recipe.network)
    with pytest.raises(UsageError, match=f"the recipe 'tiny' trains a mpenet network; that {why}"):
        task_of(network).check(network, recipe)
    task_of(network).check(tiny_network(), RECIPE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[faces]\n[references]", r"\[faces\] cannot be combined"),
        ("[faces]\nface_side = [9.0, 8.0]", "faces.face_side must be a range"),
        ("[faces]\nperson_pattern = 'a'", "must be a regular expression with a group"),
        ("[faces]\nalign_weight = -1.0", "must not be negative"),
        ("[faces]\nheatmap_sigma = 0.0", "must be above 0"),
        ("[faces]\nlabels = 'guess'", "one of 'detector', 'files'"),
        ("[network]\nscale = 8", r"8 with \[faces\]"),
    ],
)
def test_impossible_tables_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "a"\nsummary = "b"\narchitecture = "mpenet"\n{text}\n')
    with pytest.raises(UsageError, match=rf"recipe\.toml.*{why}"):
        load_recipe(path)


def test_shipped_recipes_fit_their_networks() -> None:
    for name in ("mpenet", "mpenet-fast", "mpegan-fast"):
        recipe = load_recipe(models_folder() / "recipes" / f"{name}.toml")
        network = build(recipe.architecture, recipe.network)
        task_of(network).check(network, recipe)
    assert RECIPE.degradation == BI
