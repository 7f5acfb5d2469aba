"""HIME's losses against their definitions in float64: correlation, relativistic GAN with its discriminator, VGG-19."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vidsr.errors import UsageError
from vidsr.train.adversarial import Adversary, Blur, Discriminator, discriminator_loss, generator_loss
from vidsr.train.losses import correlation_loss
from vidsr.train.perceptual import Vgg19Distance
from vidsr.train.recipe import AdversarialConfig

pytestmark = pytest.mark.numeric


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --------------------------------------------------------------------------------------------------------- correlation


def correlation_map(image: Any, k: int, d: int) -> Any:
    """(5.7) pixel by pixel: C x H x W to k^2 x H x W."""
    image = image - image.mean((1, 2), keepdims=True)
    _, height, width = image.shape
    result, channel = np.zeros((k * k, height, width)), 0
    for i in range(-(k - 1) // 2, (k - 1) // 2 + 1):
        for j in range(-(k - 1) // 2, (k - 1) // 2 + 1):
            for y in range(height):
                for x in range(width):
                    v, u = y - i * d, x - j * d
                    if 0 <= v < height and 0 <= u < width:
                        result[channel, y, x] = image[:, y, x] @ image[:, v, u] / k**2
            channel += 1
    return result


@settings(deadline=None, max_examples=25)
@given(
    k=st.sampled_from((1, 3, 5, 7)), d=st.integers(1, 3), height=st.integers(1, 7), width=st.integers(1, 7),
    channels=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_correlation_loss_is_its_definition(
    k: int, d: int, height: int, width: int, channels: int, seed: int
) -> None:
    """To 1e-12 for any window, dilation and size, also windows wider than the image."""
    a, b = noise(2, channels, height, width, seed=seed), noise(2, channels, height, width, seed=seed + 100)
    maps = [[correlation_map(image.numpy(), k, d) for image in batch] for batch in (a, b)]
    expected = np.abs(np.array(maps[0]) - np.array(maps[1])).mean()
    assert float(correlation_loss(a, b, k, d)) == pytest.approx(expected, abs=1e-12)


def test_the_correlation_loss_sees_texture_and_not_brightness() -> None:
    image = noise(1, 3, 12, 10)
    assert float(correlation_loss(image + 0.25, image, 5)) == pytest.approx(0, abs=1e-15)
    assert float(correlation_loss(image * 0.5, image, 5)) > 1e-3
    result = image.clone().requires_grad_(True)
    correlation_loss(result, noise(1, 3, 12, 10, seed=2), 3).backward()
    assert result.grad is not None and (result.grad != 0).all()


def test_an_even_window_has_no_middle() -> None:
    with pytest.raises(ValueError, match="must be odd, not 4"):
        correlation_loss(noise(1, 3, 8, 8), noise(1, 3, 8, 8), 4)


# --------------------------------------------------------------------------------------------------------- adversarial


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_relativistic_losses_are_equations_5_11_to_5_13() -> None:
    real, fake = [0.7, -1.2, 2.0], [0.1, 0.4, -3.0]
    mean_real, mean_fake = sum(real) / 3, sum(fake) / 3
    d_real = [sigmoid(each - mean_fake) for each in real]
    d_fake = [sigmoid(each - mean_real) for each in fake]
    generator = -sum(math.log(1 - d) for d in d_real) / 3 - sum(math.log(d) for d in d_fake) / 3
    discriminator = -sum(math.log(d) for d in d_real) / 3 - sum(math.log(1 - d) for d in d_fake) / 3
    scores = torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    assert float(generator_loss(*scores)) == pytest.approx(generator, rel=1e-12)
    assert float(discriminator_loss(*scores)) == pytest.approx(discriminator, rel=1e-12)
    assert float(generator_loss(*scores)) != pytest.approx(float(discriminator_loss(*scores)))


def test_the_discriminator_computes_stylegan2s_layers() -> None:
    """In NumPy and float64, from its weights: one block, the deviation over the batch, two dense layers."""
    torch.manual_seed(0)
    network = Discriminator(8, 2, 3).double().requires_grad_(False)
    images = noise(3, 3, 8, 8)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}

    def conv(x: Any, name: str, stride: int = 1, pad: int = 0) -> Any:
        kernel = weights[f"{name}.weight"]
        kernel = kernel / math.sqrt(kernel[0].size)
        x, side = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))), kernel.shape[-1]
        size = (x.shape[-1] - side) // stride + 1
        out = np.zeros((len(x), len(kernel), size, size))
        for y in range(size):
            for z in range(size):
                patch = x[:, :, y * stride : y * stride + side, z * stride : z * stride + side]
                out[:, :, y, z] = np.einsum("bcij,ocij->bo", patch, kernel)
        return out + weights.get(f"{name}.bias", np.zeros(len(kernel)))[None, :, None, None]

    def act(x: Any) -> Any:
        return np.where(x > 0, x, 0.2 * x) * math.sqrt(2)

    def blur(x: Any, pad: int) -> Any:
        taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        size = x.shape[-1] - 3
        return sum(taps[i, j] * x[:, :, i : i + size, j : j + size] for i in range(4) for j in range(4))

    x = act(conv(2 * images.numpy() - 1, "enter"))
    main = act(conv(blur(act(conv(x, "blocks.0.first", pad=1)), 2), "blocks.0.second.1", stride=2))
    x = (main + conv(blur(x, 1), "blocks.0.skip.1", stride=2)) / math.sqrt(2)
    deviation = np.sqrt(x.var(0) + 1e-8).mean()
    x = act(conv(np.concatenate([x, np.full((3, 1, 4, 4), deviation)], axis=1), "last", pad=1))
    x = act(conv(x.reshape(3, -1, 1, 1), "gather"))
    expected = conv(x, "score")[:, 0, 0, 0]
    # The deviation over the batch and its constant are computed in float32.
    np.testing.assert_allclose(network(images).numpy(), expected, atol=1e-6, rtol=0)


def test_blurring_keeps_a_constant_image() -> None:
    for kernel, border in ((1, 1), (3, 2)):
        assert torch.allclose(Blur(kernel)(torch.ones(1, 2, 8, 8))[..., border:-border, border:-border], torch.ones(1))


@pytest.mark.parametrize("side", [2, 12, 20, 96])
def test_other_sizes_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match="4 times a power of 2 pixels"):
        Discriminator(side, 2, 4)


def test_the_adversary_learns_and_its_state_is_restored() -> None:
    """Flat images against noise: the discriminator's loss falls, and the generator's gradient changes the image."""
    torch.manual_seed(0)
    config = AdversarialConfig(width=4, largest=8, learning_rate=5e-3)
    adversary = Adversary(config, 16, torch.device("cpu"))
    real, losses = noise(4, 3, 16, 16).float(), []
    for _ in range(12):
        fake = torch.full_like(real, 0.5).requires_grad_(True)
        adversary.judge(fake, real).backward()
        assert fake.grad is not None and fake.grad.abs().max() > 0
        losses.append(adversary.learn())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    other = Adversary(config, 16, torch.device("cpu"))
    other.load_state_dict(copy.deepcopy(adversary.state_dict()))  # as a file would be
    for each in (adversary, other):
        each.judge(torch.full_like(real, 0.4), real)
    assert adversary.learn() == other.learn()
    assert torch.equal(adversary.judge(fake, real), other.judge(fake, real))


# ---------------------------------------------------------------------------------------------------------- perceptual

WIDTHS = (3, 3, "M", 4, 4, "M", 5, 5, 5, 5, "M", 6, 6, 6, 6, "M", 6, 6, 6, 6)


def narrow_vgg(path: Path) -> nn.Sequential:
    """VGG-19's layers with few channels, as torchvision builds and numbers them; writes its weights to `path`."""
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    channels = 3
    for width in WIDTHS:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(channels, width, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, nn.ReLU()]
        channels = width
    network = nn.Sequential(*layers)
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, path)
    return network.double()


def test_the_distance_is_that_of_vgg_19s_features_before_the_last_relu(tmp_path: Path) -> None:
    network = narrow_vgg(tmp_path / "vgg.pth")[:35]
    assert isinstance(network[-1], nn.Conv2d) and len(network) == 35
    images = noise(2, 3, 48, 32), noise(2, 3, 48, 32, seed=5)
    shift, scale = (torch.tensor(v).view(3, 1, 1).double() for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = [network((image - shift) / scale) for image in images]
    expected = (features[0] - features[1]).abs().mean((1, 2, 3))
    found = Vgg19Distance(tmp_path / "vgg.pth")(*(image.float() for image in images))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    assert (features[0] < 0).any() and (expected > 0).all()


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("other.pth", "text.pth", "none.pth"):
        with pytest.raises(UsageError, match=r"as weights of VGG-19: use a \.pth file with the tensors features\.0"):
            Vgg19Distance(tmp_path / name)
