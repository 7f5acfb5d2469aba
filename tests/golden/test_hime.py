"""HIME: the equations of the dissertation's chapter 5, its parameters, any number of references, and "no reference"."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.hime_equations import hime
from tests.support.tiny_networks import HIME_FORMS, hime_network
from vidsr.models.loading import multiply_adds_per_pixel, run_golden
from vidsr.models.onnx_export import graph_of
from vidsr.models.registry import build, config_of
from vidsr.nets.hime.config import HIMEConfig
from vidsr.nets.hime.export_step import HIMEStep
from vidsr.nets.hime.network import HIME
from vidsr.nets.layers.blocks import BicubicReduction
from vidsr.nets.layers.resize import resize

pytestmark = pytest.mark.numeric

RECIPES = Path(__file__).parents[2] / "models" / "recipes"


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_map(image: Tensor) -> Any:
    return image.permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------------------- sizes and equations


@pytest.mark.parametrize(
    ("scale", "parameters", "side", "multiply_adds"),
    [(4, 866_124, 32, 1_910_052_864), (4, 866_124, 64, 7_640_100_864), (8, 909_276, 16, 491_802_624)],
)
def test_the_default_network_has_the_printed_size(scale: int, parameters: int, side: int, multiply_adds: int) -> None:
    """Table 5.1 prints 0.87 and 0.90 M, and with three references 1.86, 7.48 and 0.49 GMAC: up to 3 % less."""
    network = HIME(HIMEConfig(scale=scale)).eval()
    given = torch.zeros(1, 3, side, side), torch.zeros(1, 3, 3, scale * side, scale * side)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert counts["low"] == 93_376 and counts["alignment"] == 305_152 and counts["aggregation"] == 18_496
    assert sum(counts.values()) == parameters
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*given)
    assert counter.get_total_flops() == 2 * multiply_adds
    printed = {(4, 32): (0.87, 1.86), (4, 64): (0.87, 7.48), (8, 16): (0.90, 0.49)}[scale, side]
    assert parameters / 1e6 == pytest.approx(printed[0], abs=0.01)
    assert multiply_adds / 1e9 == pytest.approx(printed[1], rel=0.03)


def recipe_network(name: str) -> dict[str, Any]:
    return tomllib.loads((RECIPES / f"{name}.toml").read_text())["network"]


def test_the_recipes_keep_their_budgets() -> None:
    """The weight for "no reference" is one more parameter."""
    found = {}
    for name in ("hime", "hime-fast"):
        network = build("hime", recipe_network(name))
        found[name] = sum(p.numel() for p in network.parameters()), multiply_adds_per_pixel(network)
    assert found == {"hime": (866_125, 1_865_259), "hime-fast": (309_989, 608_043)}
    assert config_of("hime", recipe_network("hime")) == HIMEConfig(no_reference=True)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"scale": 3}, "scale is 2, 4 or 8"),
        ({"width": 12}, "width is a multiple of groups"),
        ({"low_blocks": -1}, "cannot be negative"),
        ({"reference_stages": 0}, "reference_stages is 1 or more"),
        ({"kernel": 2}, "kernel is odd"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        HIMEConfig(**sizes)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(("form", "scale"), [("printed", 2), ("fast", 4)])
def test_the_network_computes_the_equations(form: str, scale: int, count: int) -> None:
    """In float64 to 1e-12; each of the mistakes tried below moves a value by more than 1e-4."""
    network = hime_network(form, scale=scale).double()
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    image, references = noise(1, 3, 5, 6), noise(1, count, 3, 5 * scale, 6 * scale, seed=2)
    restored = network.restore(image, network.describe(references))
    given = as_map(image[0]), [as_map(each) for each in references[0]]
    expected, shares = hime(*given, weights, network.config)
    np.testing.assert_allclose(as_map(restored.image[0]), expected, atol=1e-12, rtol=0)
    np.testing.assert_allclose(restored.weights[0].numpy().reshape(count, 5, 6), np.array(shares).reshape(count, 5, 6))
    if count:
        other = replace(network.config, no_reference=False)
        mistakes = [("alignment.sample.0.conv_offset_mask.bias", network.config), ("high.mono.bias", network.config)]
        mistakes += [("aggregation.no_reference", other)] if network.config.no_reference else []
        for name, config in mistakes:
            mistaken, _ = hime(*given, weights | {name: np.zeros_like(weights[name])}, config)
            assert np.abs(mistaken - expected).max() > 1e-4, name


def test_the_reduction_is_that_of_matlab_away_from_the_border() -> None:
    for scale in (2, 4, 8):
        image = noise(2, 3, 8 * scale, 7 * scale)
        found = BicubicReduction(scale).double()(image)
        expected = resize(image, (8, 7))
        torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-7, rtol=0)


def test_sides_that_do_not_fit_the_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="must be multiples of 4"):
        hime_network("fast").describe(torch.zeros(1, 1, 3, 16, 18))


# ---------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("form", HIME_FORMS)
def test_references_that_are_not_present_do_not_exist(form: str) -> None:
    """Images with two, one and no references in one batch have the results that each has alone."""
    network = hime_network(form).double()
    images, references = noise(3, 3, 6, 5), noise(3, 2, 3, 24, 20, seed=2)
    present = torch.tensor([[True, True], [False, True], [False, False]])
    together = network.restore(images, network.describe(references), present)
    for k in range(3):
        alone = network.restore(images[k : k + 1], network.describe(references[k : k + 1, present[k]]))
        torch.testing.assert_close(together.image[k], alone.image[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(together.weights[k, present[k]], alone.weights[0], atol=1e-12, rtol=0)
        assert not together.weights[k, ~present[k]].any()
    torch.testing.assert_close(network(images[2:]), together.image[2:], atol=0, rtol=0)
    assert (network(images[:1]) - together.image[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("form", HIME_FORMS)
def test_the_order_of_references_does_not_matter(form: str) -> None:
    network = hime_network(form).double()
    image, references = noise(1, 3, 6, 5), noise(1, 3, 3, 24, 20, seed=2)
    torch.testing.assert_close(network(image, references), network(image, references.flip(1)), atol=1e-12, rtol=0)


def test_only_with_its_own_weight_can_references_be_ignored() -> None:
    """Equation (5.4) divides by the sum of the weights, which therefore cannot all be small."""
    image, references = noise(1, 3, 6, 5), noise(1, 2, 3, 24, 20, seed=2)
    for form, ignored in (("printed", False), ("fast", True)):
        network = hime_network(form).double()
        for part in (network.aggregation.of_reference, network.aggregation.of_content):
            part.weight.zero_()
        network.aggregation.of_reference.bias.fill_(-2.0)
        network.aggregation.of_content.bias.fill_(2.0)
        weights = network.restore(image, network.describe(references)).weights.sum(1)
        assert float(weights.max()) < 1e-5 if ignored else torch.allclose(weights, torch.ones_like(weights))


def test_weights_that_vanish_are_no_division_by_zero() -> None:
    network = hime_network("printed")
    network.aggregation.of_reference.weight.zero_()
    network.aggregation.of_content.weight.zero_()
    network.aggregation.of_reference.bias.fill_(-30.0)
    network.aggregation.of_content.bias.fill_(30.0)
    image, references = noise(1, 3, 6, 5).float(), noise(1, 2, 3, 24, 20).float()
    assert torch.equal(network(image, references), network(image))


@pytest.mark.parametrize("form", HIME_FORMS)
@pytest.mark.parametrize("scale", [4, 8])
def test_training_starts_at_the_bicubic_enlargement_and_reaches_every_weight(form: str, scale: int) -> None:
    torch.manual_seed(0)
    network = HIME(HIMEConfig(**(HIME_FORMS[form] | {"scale": scale})))
    image, references = noise(1, 3, 6, 5).float(), noise(1, 2, 3, 6 * scale, 5 * scale, seed=2).float()
    result = network(image, references)
    base = torch.nn.functional.pixel_shuffle(network.bicubic(image), scale)
    assert 0 < (result - base).abs().max() < 0.05
    blocks = torch.nn.functional.pixel_unshuffle(result - base, scale).unflatten(1, (3, -1))
    torch.testing.assert_close(blocks, blocks[:, :, :1].expand_as(blocks), atol=1e-6, rtol=0)  # ICNR
    (result - noise(*result.shape, seed=3).float()).square().mean().backward()
    for name, parameter in network.named_parameters():
        waits = name.startswith(("alignment.guide", "alignment.refine"))  # for offsets that start at 0
        assert parameter.grad is not None and bool(parameter.grad.abs().max() > 0) is not waits, name


@pytest.mark.parametrize("form", HIME_FORMS)
def test_features_of_references_are_computed_once(form: str) -> None:
    """They do not depend on the image; restoring with them is the same as doing all at once."""
    network = hime_network(form)
    references = noise(1, 2, 3, 24, 20, seed=2).float()
    features = network.describe(references)
    for seed in range(2):
        image = noise(1, 3, 6, 5, seed=seed).float()
        assert torch.equal(network.restore(image, features).image, network(image, references))


def test_the_stored_example_uses_the_other_frames_as_references() -> None:
    network = hime_network("fast")
    clip = np.random.default_rng(1).integers(0, 256, (3, 3, 6, 5), np.uint8)
    images = torch.from_numpy(clip).float() / 255
    large = [torch.nn.functional.pixel_shuffle(network.bicubic(image[None]), 4)[0].clamp(0, 1) for image in images]
    expected = network(images[1][None], torch.stack([large[0], large[2]])[None])[0]
    np.testing.assert_allclose(run_golden(network, clip)[1], expected.numpy(), atol=1e-5)
    assert (expected - network(images[1][None])[0]).abs().max() > 1e-3


@pytest.mark.parametrize("form", HIME_FORMS)
def test_an_exported_graph_takes_up_to_three_references_at_any_size(form: str) -> None:
    network = hime_network(form)
    session = onnxruntime.InferenceSession(graph_of(HIMEStep(network)))
    for (height, width), present in (((24, 40), (1, 1, 1)), ((13, 9), (0, 1, 0)), ((6, 17), (0, 0, 0))):
        image = noise(1, 3, height, width).float()
        references = noise(3, 3, 4 * height, 4 * width, seed=2).float()
        given = {"image": image, "references": references, "present": torch.tensor([present]).float()}
        result, weights = session.run(None, {name: value.numpy() for name, value in given.items()})
        expected = network.restore(image, network.describe(references[None]), given["present"])
        np.testing.assert_allclose(result, expected.image.numpy(), atol=5e-5)
        np.testing.assert_allclose(weights, expected.weights.numpy(), atol=5e-5)
