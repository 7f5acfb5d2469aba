"""CAJNN: the equations of the dissertation's chapter 4, its parameters, its self-ensemble, and what its tiles need."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.cajnn_equations import cajnn
from tests.support.tiny_networks import CAJNN_FORMS, cajnn_network
from tests.support.toy_engine import make_clip
from vidsr.engines.onnx import PRECISIONS, single_image_graph
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import ModelError
from vidsr.models.loading import multiply_adds_per_pixel
from vidsr.models.registry import build, config_of
from vidsr.nets.cajnn.config import CAJNNConfig
from vidsr.nets.cajnn.network import CAJNN

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[2] / "models" / "recipes"


def image_of(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- sizes and equations


def recipe_network(name: str) -> dict[str, Any]:
    return tomllib.loads((RECIPES / f"{name}.toml").read_text())["network"]


def test_the_default_network_has_the_printed_parameters() -> None:
    """Table 4.1 prints 14.8 M; the parts are those that add up to it."""
    network = build("cajnn", {})
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert parts == {"first": 1_792, "context": 123_136, "trunk": 20 * 719_424, "upsampler": 334_083}
    assert sum(parts.values()) == 14_847_491
    assert config_of("cajnn", recipe_network("cajnn")) == network.config == CAJNNConfig()
    assert multiply_adds_per_pixel(network) == 15_856_320


def test_to_the_letter_equation_4_3_has_fewer() -> None:
    network = build("cajnn", {"upsampler_width": 0})
    assert sum(p.numel() for p in network.parameters()) == 14_541_272


def test_the_fast_network_keeps_its_budget() -> None:
    network = build("cajnn", recipe_network("cajnn-fast"))
    assert sum(p.numel() for p in network.parameters()) == 460_984
    assert multiply_adds_per_pixel(network) == 462_720


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"scale": 3}, "scale is 2, 4 or 8"),
        ({"width": 0}, "width and growth"),
        ({"dilations": ()}, "dilations are"),
        ({"dilations": (1, 0)}, "dilations are"),
        ({"blocks": -1}, "cannot be negative"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=f"the architecture 'cajnn' cannot be built with these sizes: .*{why}"):
        build("cajnn", sizes)


@pytest.mark.parametrize("form", CAJNN_FORMS)
@pytest.mark.parametrize("scale", [2, 4])
def test_the_network_computes_the_equations(form: str, scale: int) -> None:
    """In float64 to 1e-12; the smallest of the mistakes tried below moves a value by more than 1e-4."""
    network = cajnn_network(form, scale=scale).double()
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    image, config = image_of(9, 7).double(), network.config
    result = network(image)
    pixels = image[0].permute(1, 2, 0).numpy()
    sizes = config.blocks, config.dilations, config.upsampler_width, scale
    expected = cajnn(pixels, weights, *sizes)
    np.testing.assert_allclose(result[0].permute(1, 2, 0).numpy(), expected, atol=1e-12, rtol=0)
    for blocks, dilations, changed in (
        (config.blocks - 1, config.dilations, weights),
        (config.blocks, (1, 2, 4), weights),
        (config.blocks, config.dilations, weights | {"upsampler.enhance.0.bias": np.zeros(sizes[2] or 3)}),
        (config.blocks, config.dilations, weights | {"context.join.bias": np.zeros(config.width)}),
    ):
        mistaken = cajnn(pixels, changed, blocks, dilations, *sizes[2:])
        assert np.abs(mistaken - expected).max() > 1e-4


@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_training_starts_near_the_bilinear_enlargement(form: str) -> None:
    torch.manual_seed(0)
    network, image = build("cajnn", CAJNN_FORMS[form]), image_of(12, 10)
    difference = network(image) - F.interpolate(image, scale_factor=4, mode="bilinear")
    assert 0 < difference.abs().max() < 0.02
    difference.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


# -------------------------------------------------------------------------------------------------------- self-ensemble


def turned(image: Tensor, quarters: int, is_mirrored: bool) -> Tensor:
    return torch.rot90(image.flip(-1) if is_mirrored else image, quarters, (-2, -1))


def turned_back(image: Tensor, quarters: int, is_mirrored: bool) -> Tensor:
    upright = torch.rot90(image, -quarters, (-2, -1))
    return upright.flip(-1) if is_mirrored else upright


@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_the_self_ensemble_is_the_mean_over_eight_flips_and_rotations(form: str) -> None:
    plain, ensemble, image = cajnn_network(form), cajnn_network(form, self_ensemble=True), image_of(11, 8)
    results = [
        turned_back(plain(turned(image, quarters, is_mirrored)), quarters, is_mirrored)
        for is_mirrored in (False, True)
        for quarters in range(4)
    ]
    for k, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-3 for other in results[:k]), "this network would show nothing"
    torch.testing.assert_close(ensemble(image), torch.stack(results).mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(ensemble.enlarge(image), plain(image), atol=0, rtol=0)
    assert multiply_adds_per_pixel(ensemble) == 8 * multiply_adds_per_pixel(plain)


# ---------------------------------------------------------------------------------------------------------- engines


def engine_of(network: CAJNN, precision: str = "fp32") -> SingleImageEngine:
    return SingleImageEngine.of_network(network, "cajnn", CPU, precision)


def enlarged(engine: Any, image: Tensor) -> Tensor:
    (frame,) = make_clip(1, height=image.shape[-2], width=image.shape[-1])
    results, _ = engine.step(frame.with_image(image[0]), engine.init_state(*image.shape[-2:]))
    found: Tensor = results[0].image
    return found


@pytest.mark.parametrize("is_ensemble", [False, True])
@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_onnx_computes_the_same_at_any_size(form: str, is_ensemble: bool) -> None:
    network = cajnn_network(form, self_ensemble=is_ensemble)
    onnx = SingleImageEngine(single_image_graph(network, CPU), "cajnn", network.config, CPU, PRECISIONS)
    for height, width in ((24, 40), (21, 13), (1, 1), (2, 33)):
        image = image_of(height, width)
        difference = enlarged(onnx, image) - enlarged(engine_of(network), image)
        assert difference.abs().max() < 2e-5, (height, width)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_other_precisions_are_near_and_float32_outside(form: str, precision: str) -> None:
    network, image = cajnn_network(form), image_of(16, 24)
    exact, coarse = enlarged(engine_of(network), image), enlarged(engine_of(network, precision), image)
    assert coarse.dtype == torch.float32 and 0 < (exact - coarse).abs().max() < 0.05


def reach_of(config: CAJNNConfig) -> int:
    """Input pixels on each side of which a result depends: 15 convolutions in a block; less than 2 behind the trunk."""
    return 1 + max(config.dilations) + 15 * config.blocks + 2


@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_nothing_beyond_the_reach_matters(form: str) -> None:
    network = cajnn_network(form).double()
    reach = reach_of(network.config)
    image = image_of(3, 2 * reach + 9).double()
    image.requires_grad_(True)
    column = 4 * (reach + 4)  # the first of its pixel's four columns, which sees farthest to the left
    network(image)[..., column].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().amax((0, 1, 2)).nonzero().flatten()
    assert int(seen.min()) == reach + 4 - reach and int(seen.max()) <= reach + 4 + reach


@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_tiles_that_overlap_by_the_reach_change_nothing(form: str) -> None:
    """A tile's results count from 3/8 of the overlap on."""
    network = cajnn_network(form)
    overlap = -(-8 * reach_of(network.config) // 3)
    image = image_of(20, 2 * overlap + 40)
    whole = enlarged(engine_of(network), image)
    tiled = enlarged(TiledEngine(engine_of(network), overlap + 30, overlap=overlap, smallest=16), image)
    assert (whole - tiled).abs().max() < 2e-6
    narrow = enlarged(TiledEngine(engine_of(network), 32, overlap=4, smallest=16), image)
    assert (whole - narrow).abs().max() > 1e-4, "with weights that see little this test would show nothing"
