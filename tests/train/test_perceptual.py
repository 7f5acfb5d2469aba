"""The perceptual distance against the same network built of torch's modules in float64, and its place in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny_training_data import TINY_NETWORK, tiny_recipe, training_folder
from vidsr.errors import UsageError
from vidsr.models.registry import build
from vidsr.train.data import Batch
from vidsr.train.loop import train, train_step
from vidsr.train.losses import perceptual_loss
from vidsr.train.perceptual import PerceptualDistance
from vidsr.train.recipe import (
    DataConfig,
    DegradationConfig,
    OptimizationConfig,
    PerceptualConfig,
    load_recipe,
)
from vidsr.train.trainer import TrainOptions

# The layers of AlexNet: name, channels in and out, side of the kernel; here narrow. A name after it: a blur behind it.
CONVOLUTIONS = {"slice1.0": (3, 4, 11), "slice2.5": (4, 6, 5), "slice3.9": (6, 8, 3), "slice4.11": (8, 6, 3)}
CONVOLUTIONS["slice5.13"] = (6, 6, 3)
BLURS = {"slice1.1": 4, "slice2.4": 4, "slice3.8": 6}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(1)
    content: dict[str, Tensor] = {
        "scaling_layer.shift": torch.tensor([-0.03, -0.088, -0.188]).view(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.45]).view(1, 3, 1, 1),
    }
    for level, (name, (inputs, outputs, side)) in enumerate(CONVOLUTIONS.items()):
        content[f"net.{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=generator) / side
        content[f"net.{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        content[f"lin{level}.model.1.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    taps = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    for name, channels in BLURS.items():
        content[f"net.{name}.filt"] = torch.outer(taps, taps).expand(channels, 1, 5, 5).clone()
    path = tmp_path_factory.mktemp("weights") / "narrow.pth"
    torch.save(content, path)
    return path


def oracle(weights: Path, a: Tensor, b: Tensor) -> list[float]:
    """The definition in float64: squared differences of unit feature vectors, weighted, averaged, summed up."""
    content = {name: value.double() for name, value in torch.load(weights, weights_only=True).items()}

    def convolution(name: str, padding: int) -> nn.Module:
        inputs, outputs, side = CONVOLUTIONS[name]
        layer = nn.Conv2d(inputs, outputs, side, padding=padding).double()
        layer.load_state_dict({key: content[f"net.{name}.{key}"] for key in ("weight", "bias")})
        return nn.Sequential(layer, nn.ReLU())

    def blur(name: str) -> nn.Module:
        channels = BLURS[name]
        layer = nn.Conv2d(channels, channels, 5, stride=2, groups=channels, bias=False).double()
        layer.load_state_dict({"weight": content[f"net.{name}.filt"]})
        return nn.Sequential(nn.ReflectionPad2d(2), layer, *([nn.ReLU()] if name == "slice1.1" else []))

    first = convolution("slice1.0", 2)[0]  # its ReLU stands behind the blur
    slices = [
        nn.Sequential(first, blur("slice1.1")),
        nn.Sequential(nn.MaxPool2d(3, 1), blur("slice2.4"), convolution("slice2.5", 2)),
        nn.Sequential(nn.MaxPool2d(3, 1), blur("slice3.8"), convolution("slice3.9", 1)),
        convolution("slice4.11", 1),
        convolution("slice5.13", 1),
    ]
    x, y = ((2 * v.double() - 1 - content["scaling_layer.shift"]) / content["scaling_layer.scale"] for v in (a, b))
    sums = torch.zeros(len(a), dtype=torch.float64)
    for level, part in enumerate(slices):
        x, y = part(x), part(y)
        p, q = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-10) for v in (x, y))
        head = content[f"lin{level}.model.1.weight"].flatten()
        sums += torch.einsum("bchw,c->bhw", (p - q) ** 2, head).mean((1, 2))
    return sums.tolist()


def test_it_is_the_distance_of_its_definition(weights: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(2, 3, 48, 40, generator=generator) for _ in range(2))
    distance = PerceptualDistance(weights)
    with torch.no_grad():
        assert distance(a, b).tolist() == pytest.approx(oracle(weights, a, b), rel=1e-4)
        assert distance(a, a).tolist() == [0, 0]
        near, far = (distance(a, (a + amount * (b - 0.5)).clamp(0, 1)) for amount in (0.05, 0.3))
    assert torch.all(near > 0) and torch.all(near < far)


@pytest.mark.parametrize("content", [b"no weights", {"lin0.model.1.weight": torch.zeros(1)}, [1, 2]])
def test_another_file_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UsageError, match="as weights of the perceptual distance"):
        PerceptualDistance(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="as weights of the perceptual distance"):
        PerceptualDistance(tmp_path / "missing.pth")


def test_the_windows_of_both_clips_are_the_same_and_change() -> None:
    """Of the same clips, and of clips of whose values each tells its place."""
    seen: list[Tensor] = []

    def distance(a: Tensor, b: Tensor) -> Tensor:
        assert torch.equal(a, b) and a.shape == (2, 3, 32, 32)
        seen.append(a[:, 0, 0, 0])
        return (a - b).abs().mean((1, 2, 3))

    clips = torch.arange(2 * 5 * 3 * 40 * 48, dtype=torch.float32).view(2, 5, 3, 40, 48)
    for _ in range(6):
        perceptual_loss(clips, clips, distance, 32)  # type: ignore[arg-type]
    assert len({float(value) for value in torch.cat(seen)}) > 6


DATA = DataConfig(crop=64, frames=2, batch=2, burn_in_share=0, holdout_clips=0)
CLEAN = DegradationConfig(noise_share=0, jpeg_share=0, h264_share=0)


def test_a_step_follows_its_gradient(weights: Path) -> None:
    """With a weight of 100 the perceptual distance of a batch falls; without the table it is not in the log."""
    recipe = replace(tiny_recipe(DATA, CLEAN, OptimizationConfig()), perceptual=PerceptualConfig(weight=100, crop=64))
    torch.manual_seed(0)
    network = build("secnet", TINY_NETWORK)
    truth = torch.rand(1, 2, 3, 64, 64)
    batch = Batch(truth[..., ::4, ::4].contiguous(), truth, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    distance, cpu = PerceptualDistance(weights), torch.device("cpu")
    found = [train_step(network, batch, optimizer, recipe, cpu, distance=distance)["perceptual"] for _ in range(15)]
    assert found[-1] < 0.8 * found[0]
    assert "perceptual" not in train_step(network, batch, optimizer, replace(recipe, perceptual=None), cpu)


def test_a_training_needs_the_weights_and_the_table_together(weights: Path, tmp_path: Path) -> None:
    folder = training_folder(tmp_path)
    recipe = tiny_recipe(DATA, CLEAN, OptimizationConfig(steps=1))
    with pytest.raises(UsageError, match=r"has no table \[perceptual\]"):
        train(recipe, TrainOptions(folder, tmp_path / "a", workers=0, perceptual=weights))
    recipe = replace(recipe, perceptual=PerceptualConfig(crop=32))
    with pytest.raises(UsageError, match="give them with --perceptual"):
        train(recipe, TrainOptions(folder, tmp_path / "b", workers=0))
    entries: list[dict[str, float]] = []
    train(recipe, TrainOptions(folder, tmp_path / "c", workers=0, perceptual=weights), entries.append)
    assert entries[-1]["perceptual"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[perceptual]\nweight = -1.0\n", "perceptual.weight must not be negative"),
        ("[perceptual]\ncrop = 16\n", r"perceptual.crop must be in 32..data.crop"),
        ("[perceptual]\ncrop = 200\n", r"perceptual.crop must be in 32..data.crop"),
    ],
)
def test_impossible_values_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    head = 'name = "a"\nsummary = "b"\narchitecture = "secnet"\n'
    path.write_text(head + "[perceptual]\nweight = 0.1\n")
    assert load_recipe(path).perceptual == PerceptualConfig(weight=0.1)
    path.write_text(head + text)
    with pytest.raises(UsageError, match=message):
        load_recipe(path)
