"""Adversarial training: a discriminator like StyleGAN2's, and the losses of two kinds of GANs.

HIME (Xiang, dissertation, 5.5.1) names both; sizes are not given there. Karras et al., "Analyzing and Improving the
Image Quality of StyleGAN" (CVPR 2020); Jolicoeur-Martineau, "The Relativistic Discriminator" (ICLR 2019).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.runtime.device import training_autocast
from vidsr.train.recipe import AdversarialConfig

SLOPE = 0.2
GAIN = math.sqrt(2)  # keeps the variance behind a leaky ReLU
SMALLEST_SIDE = 4  # of the last feature
_BLUR = (1.0, 3.0, 3.0, 1.0)


class EqualizedConv2d(nn.Module):
    """A convolution whose weights are unit normal and scaled while it runs, so that all layers learn equally fast."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        """`kernel` is odd; with a `stride` of 2 the caller has blurred and padded the image."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        """B x in x H x W to B x out x H' x W'."""
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class Blur(nn.Module):
    """The filter 1 3 3 1 along both axes, before an image is halved by a convolution with this kernel."""

    taps: Tensor

    def __init__(self, kernel: int) -> None:
        """`kernel` is the side of the convolution that follows."""
        super().__init__()
        taps = torch.tensor(_BLUR) / sum(_BLUR)
        self.register_buffer("taps", torch.outer(taps, taps)[None, None], persistent=False)
        pad = len(_BLUR) - 2 + kernel - 1
        self.pad = ((pad + 1) // 2, pad // 2, (pad + 1) // 2, pad // 2)

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W to the same number of channels, larger by the kernel minus 2 on each axis, for even sides."""
        return F.conv2d(F.pad(x, self.pad), self.taps.to(x).expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions, the second of which halves the size, plus a 1x1 convolution that halves it too."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Channels in and out."""
        super().__init__()
        self.first = EqualizedConv2d(in_channels, in_channels, 3)
        self.second = nn.Sequential(Blur(3), EqualizedConv2d(in_channels, out_channels, 3, stride=2))
        self.skip = nn.Sequential(Blur(1), EqualizedConv2d(in_channels, out_channels, 1, stride=2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """B x in x H x W, even sides, to B x out x H/2 x W/2."""
        result: Tensor = _activate(self.second(_activate(self.first(x)))) + self.skip(x)
        return result / GAIN


class Discriminator(nn.Module):
    """C of equation (5.12): one number for each image, larger for one that looks real. Its scale has no meaning.

    `width` is the number of channels at the full size. It doubles with every halving, up to `largest`.
    """

    def __init__(self, side: int, width: int, largest: int) -> None:
        """For square images with `side` pixels, 4 times a power of 2. Raises ValueError for others."""
        super().__init__()
        halvings = max(0, (side // SMALLEST_SIDE).bit_length() - 1)
        if side != SMALLEST_SIDE << halvings:
            raise ValueError(f"a discriminator needs images of {SMALLEST_SIDE} times a power of 2 pixels, not {side}")
        channels = [min(width << k, largest) for k in range(halvings + 1)]
        self.enter = EqualizedConv2d(3, channels[0], 1)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(*channels[k : k + 2]) for k in range(halvings)))
        self.last = EqualizedConv2d(channels[-1] + 1, channels[-1], 3)
        self.gather = EqualizedConv2d(channels[-1] * SMALLEST_SIDE**2, channels[-1], 1)
        self.score = EqualizedConv2d(channels[-1], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x `side` x `side` in 0..1 to B scores."""
        x = self.blocks(_activate(self.enter(2 * images - 1)))
        x = _activate(self.last(torch.cat((x, _batch_deviation(x)), dim=1)))
        x = _activate(self.gather(x.reshape(len(x), -1, 1, 1)))
        scores: Tensor = self.score(x)[:, 0, 0, 0]
        return scores


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE) * GAIN


def _batch_deviation(x: Tensor) -> Tensor:
    """The standard deviation over the batch, averaged over channels and pixels, as one more channel: B x 1 x h x w.

    A generator that makes all images alike is recognized by it. StyleGAN2 takes groups of four, this the whole batch.
    """
    deviation = (x.float().var(0, correction=0) + 1e-8).sqrt().mean()
    return deviation.to(x.dtype).expand(len(x), 1, *x.shape[-2:])


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Equation (5.11) from the scores of real and generated images, B each: both sides of the comparison count."""
    return F.softplus(real - fake.mean()).mean() + F.softplus(real.mean() - fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Equation (5.13), from the scores of real and generated images."""
    return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()


def standard_generator_loss(real: Tensor, fake: Tensor) -> Tensor:  # noqa: ARG001 - as the relativistic loss
    """MPENet's (11), -log D, from the scores of generated images, whose sigmoid is D."""
    return F.softplus(-fake).mean()


def standard_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """MPENet's (12), from the scores of real and generated images."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


# The losses of each kind: the generator's, the discriminator's.
LOSSES = {
    "relativistic": (generator_loss, discriminator_loss),
    "standard": (standard_generator_loss, standard_discriminator_loss),
}


class Adversary:
    """The discriminator of a training, with its optimizer. The two networks take turns: `judge`, then `learn`.

    Not part of the trained model; its state belongs to a checkpoint.
    """

    def __init__(self, config: AdversarialConfig, side: int, device: torch.device) -> None:
        """For ground-truth crops of `side` x `side` pixels. Raises ValueError as `Discriminator` does."""
        self.discriminator = Discriminator(side, config.width, config.largest).to(device)
        self._optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.learning_rate, betas=(0.0, 0.99), eps=1e-8
        )
        self._losses = LOSSES[config.kind]
        self._pair: tuple[Tensor, Tensor] | None = None

    def judge(self, results: Tensor, truth: Tensor) -> Tensor:
        """The generator's loss for `results` against `truth`, B x 3 x `side` x `side` in 0..1."""
        self._pair = results.detach(), truth
        self.discriminator.requires_grad_(False)
        loss = self._losses[0](self.discriminator(truth).float(), self.discriminator(results).float())
        self.discriminator.requires_grad_(True)
        return loss

    def learn(self) -> float:
        """One step of the discriminator on the images last judged; returns its loss."""
        assert self._pair is not None, "nothing was judged"
        results, truth = self._pair
        with training_autocast(truth.device):
            loss = self._losses[1](self.discriminator(truth).float(), self.discriminator(results).float())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._pair = None
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer."""
        return {"network": self.discriminator.state_dict(), "optimiser": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of `state_dict`."""
        self.discriminator.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimiser"])
