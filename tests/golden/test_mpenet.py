"""MPENet: the paper's equations, parameter sums, the steps of videos, and the maps of action units."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.support.mpenet_equations import advance, heatmaps, restore, unit_map
from tests.support.tiny_networks import MPENET_FORMS, mpenet_network
from vidsr.models.loading import multiply_adds_per_pixel
from vidsr.models.onnx_export import graph_of
from vidsr.models.registry import build
from vidsr.nets.mpenet.alignment import draw_heatmaps, read_heatmaps
from vidsr.nets.mpenet.config import DISFA_UNITS, KNOWN_UNITS, MPENetConfig
from vidsr.nets.mpenet.network import Feedback, MPENet, moved
from vidsr.nets.mpenet.units import CENTERS, unit_maps
from vidsr.nets.single_image import SingleImageStep, run_padded

pytestmark = pytest.mark.numeric

RECIPES = Path(__file__).parents[2] / "models" / "recipes"


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counted(network: torch.nn.Module) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}


# --------------------------------------------------------------------------------------------------------------- sizes


def test_the_default_network_has_the_sizes_that_follow_from_the_paper() -> None:
    """The paper prints 48 channels and 6 groups; SRFBN's block and ResNet-18 are known. 8 units of DISFA: 4 less."""
    counts = counted(MPENet(MPENetConfig()))
    branch = {"shallow": 5_376, "fusions": 77_856, "recurrent": 1_876_583, "reconstruction": 148_804}
    assert {name: counts[name] for name in branch} == branch and sum(branch.values()) == 2_108_619
    assert counts["units"] == 11_176_512 + 513 * 12
    fewer = MPENet(MPENetConfig(units=DISFA_UNITS))
    assert counts["fusions"] - counted(fewer)["fusions"] == 4 * 48
    bare = MPENet(MPENetConfig(points=0, units=()))  # the baseline of table 4
    assert sum(counted(bare).values()) == 2_108_619 - (68 + 12) * 48


def test_the_recipe_keeps_its_budget() -> None:
    network = build("mpenet", tomllib.loads((RECIPES / "mpenet-fast.toml").read_text())["network"])
    assert counted(network) == {
        "shallow": 3_584, "fusions": 21_792, "recurrent": 406_891, "reconstruction": 66_436, "alignment": 62_218,
    }  # fmt: skip
    assert multiply_adds_per_pixel(network) == pytest.approx(4.7e6, rel=0.02)  # 1.2 GMAC for a face of 16x16


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"scale": 4}, "scale is 8"),
        ({"groups": 0}, "groups, steps and hourglasses are 1 or more"),
        ({"points": -1, "units": ()}, "points and hourglass_depth are not negative"),
        ({"alignment_width": 3}, "an even number"),
        ({"steps": 2}, "units needs 3 steps"),
        ({"units": (1, 1)}, "different numbers"),
        ({"points": 5}, "unit_maps needs 68 points"),
        ({"units": (5,)}, "unit_maps knows the units 1, 2, 4"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MPENetConfig(**sizes)


# ----------------------------------------------------------------------------------------------------------- equations


@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("paper", {}),
        ("paper", {"unit_maps": False, "units": [1, 5]}),
        ("fast", {"hourglasses": 1}),
        ("fast", {"points": 0, "steps": 3}),
        ("fast", {"steps": 1}),
    ],
)
def test_the_network_computes_the_equations(form: str, more: dict[str, Any]) -> None:
    """In float64 to 1e-12, every step; each of the mistakes tried below moves a value by more than 1e-6."""
    network = mpenet_network(form, **more).double()
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    image = noise(1, 3, 2, 4)
    found = network.restore(image)
    images, maps, scores, feature = restore(image[0].numpy(), weights, network.config)
    for one, other in zip(found.images, images, strict=True):
        np.testing.assert_allclose(one[0].numpy(), other, atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.feature[0].numpy(), feature, atol=1e-12, rtol=0)
    for value, expected in ((found.heatmaps, maps), (found.units, scores)):
        assert (value is None) == (expected is None) or network.config.steps == 1
        if value is not None and expected is not None:
            np.testing.assert_allclose(value[0].numpy(), expected, atol=1e-12, rtol=0)
    assert torch.equal(network(image), found.images[-1])
    mistakes = ["recurrent.up.0.conv.bias", "shallow.bias"]
    mistakes += ["fusions.1.mix.weight"] if network.config.steps > 1 else []
    mistakes += ["alignment.blocks.2.middle.bias"] if maps is not None else []
    mistakes += ["units.blocks.7.norm2.running_mean"] if scores is not None else []
    for name in mistakes:
        mistaken, *_ = restore(image[0].numpy(), weights | {name: np.zeros_like(weights[name])}, network.config)
        assert np.abs(mistaken[-1] - images[-1]).max() > 1e-6, name


@pytest.mark.parametrize("form", MPENET_FORMS)
def test_fused_activations_change_nothing(form: str) -> None:
    """Without gradients in float32 each activation is one operation with its convolution, where torch can do so."""
    network, image = mpenet_network(form), noise(2, 3, 8, 12)
    with torch.no_grad():
        found = network.restore(image.float())
        expected = network.double().restore(image)
    for one, other in zip(found.images, expected.images, strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.feature.double(), expected.feature, atol=2e-5, rtol=0)


@pytest.mark.parametrize("more", [{}, {"points": 0}])
def test_the_second_step_becomes_time(more: dict[str, Any]) -> None:
    network = mpenet_network("fast", **more).double()
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    first, second = noise(1, 3, 2, 4), noise(1, 3, 2, 4, seed=2)
    feedback = network.feedback(before := network.restore(first))
    maps = heatmaps(before.images[-1][0].numpy(), weights, network.config) if network.config.points else None
    expected = advance(second[0].numpy(), feedback.feature[0].numpy(), maps, weights, network.config)
    found = network.advance(second, feedback)
    np.testing.assert_allclose(found.images[0][0].numpy(), expected, atol=1e-12, rtol=0)
    assert torch.equal(network.feedback(found).feature, found.feature)
    # From its own first step, a frame comes out as with both steps.
    alone = network.restore(second)
    own = mpenet_network("fast", **more, steps=1).double()
    own.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fusions.1")})
    start = own.restore(second)
    again = network.advance(
        second, Feedback(start.feature, alone.feature[:, :0] if alone.heatmaps is None else alone.heatmaps)
    )
    torch.testing.assert_close(again.images[0], alone.images[1], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="takes no feedback"):
        own.advance(second, feedback)


def test_feedback_moves_along_with_the_face() -> None:
    """Bilinear at the places of a similarity transform, with edge values beyond the border."""
    generator = np.random.default_rng(3)
    feature, maps = noise(2, 3, 8, 12), noise(2, 2, 8, 12, seed=2)
    motion = np.array([[[0.9, 0.1, 0.7], [-0.1, 0.9, -0.4]], [[1.0, 0.0, 1.5], [0.0, 1.0, 0.0]]])
    found = moved(Feedback(feature, maps), torch.from_numpy(motion))
    both = torch.cat([feature, maps], 1).numpy()
    result = torch.cat([found.feature, found.heatmaps], 1).numpy()
    for _ in range(60):
        b, c, i, j = (int(generator.integers(n)) for n in both.shape)
        x, y = motion[b] @ [(j + 0.5) / 2, (i + 0.5) / 2, 1.0]
        row, column = min(max(2 * y - 0.5, 0), 7), min(max(2 * x - 0.5, 0), 11)
        top, left = int(row), int(column)
        expected = sum(
            (1 - abs(row - r)) * (1 - abs(column - k)) * both[b, c, min(r, 7), min(k, 11)]
            for r in (top, top + 1)
            for k in (left, left + 1)
        )
        assert result[b, c, i, j] == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(found.feature[1, :, :, :9], feature[1, :, :, 3:], atol=1e-12, rtol=0)
    still = moved(Feedback(feature, maps), torch.eye(2, 3).expand(2, 2, 3))
    torch.testing.assert_close(still.feature, feature, atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------------------ heatmaps, unit maps


def test_heatmaps_are_drawn_and_read() -> None:
    points = torch.tensor([[[10.0, 22.0], [37.9, 2.0]]], dtype=torch.float64)
    maps = draw_heatmaps(points, 8, 12, sigma=1.5)
    for k, (x, y) in enumerate(points[0].tolist()):
        for i, j in ((2, 4), (5, 2), (0, 9)):
            squared = ((j + 0.5) * 4 - x) ** 2 + ((i + 0.5) * 4 - y) ** 2
            assert float(maps[0, k, i, j]) == pytest.approx(np.exp(-squared / (2 * (4 * 1.5) ** 2)), abs=1e-12)
    assert torch.equal(read_heatmaps(maps), torch.tensor([[[2.5, 5.5], [9.5, 0.5]]], dtype=torch.float64))


def test_units_have_the_places_of_jaa_net() -> None:
    maps = noise(2, 68, 20, 24)
    found = unit_maps(read_heatmaps(maps), KNOWN_UNITS, 20, 24)
    for b in range(2):
        for k, unit in enumerate(KNOWN_UNITS):
            np.testing.assert_allclose(found[b, k].numpy(), unit_map(maps[b].numpy(), unit), atol=1e-12, rtol=0)
    assert set(CENTERS) == set(KNOWN_UNITS) and (found > 0.8).any()


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("form", MPENET_FORMS)
def test_training_starts_at_the_bilinear_enlargement_and_reaches_every_weight(form: str) -> None:
    torch.manual_seed(0)
    network = build("mpenet", MPENET_FORMS[form] | {"alignment_width": 16})  # in narrow branches ReLUs may be closed
    assert isinstance(network, MPENet)
    image = noise(2, 3, 8, 8).float()
    found = network.restore(image)
    base = torch.nn.functional.interpolate(image, scale_factor=8, mode="bilinear", align_corners=False)
    assert all(0 < (each - base).abs().max() < 0.05 for each in found.images)
    loss = sum((each - noise(2, 3, 64, 64, seed=3).float()).square().mean() for each in found.images)
    loss = loss + (0 if found.heatmaps is None else (found.heatmaps - 1).square().mean())
    (loss + (0 if found.units is None else found.units.square().mean())).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().max() > 0), name


@pytest.mark.parametrize("form", MPENET_FORMS)
def test_an_exported_graph_takes_any_size(form: str) -> None:
    network = mpenet_network(form)
    session = onnxruntime.InferenceSession(graph_of(SingleImageStep(network)))
    for height, width in ((24, 40), (8, 6)):
        image = noise(1, 3, height, width).float()
        (result,) = session.run(None, {"image": image.numpy()})
        expected = run_padded(network, network.config, image)
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-4)
