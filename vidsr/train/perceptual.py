"""Perceptual distances of images, for the last part of a training: shift-tolerant LPIPS on AlexNet, VGG-19 features.

The first: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), with the
antialiased layers of Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric" (ECCV 2022). The weights are no
part of vidsr: they are the file alex_shift_tolerant.pth of the package stlpips-pytorch (BSD-2), which is not imported.

The second: the perceptual loss of HIME (Xiang, dissertation, equation (5.10)), with any file of VGG-19 weights whose
tensors have torchvision's names.

The third: the perceptual loss of MPENet (10), with any file of VGG-Face weights (Parkhi et al., "Deep Face
Recognition", BMVC 2015) that a user has; they are not for commercial use, and no part of vidsr.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.errors import UsageError

_LEVELS = 5
# The convolutions of each stage, up to the one whose result is compared: the last of VGG-19, and of VGG-Face.
_VGG19 = tuple(
    tuple(f"features.{number}" for number in numbers)
    for numbers in ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34))
)
_VGG_FACE = tuple(
    tuple(f"conv{stage}_{number}" for number in range(1, count + 1)) for stage, count in enumerate((2, 2, 3, 3, 3), 1)
)
_FACE_MEAN = (129.186, 104.762, 93.594)  # of its RGB images in 0..255
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB images in 0..1


class Distance(Protocol):
    """A perceptual distance."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, B values; `a` and `b` are B x 3 x H x W in 0..1, at least 32 x 32."""


class PerceptualDistance:
    """The distance of two batches of images: 0 if they are equal, larger the more they differ to the eye."""

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        """Reads a .pth file; raises UsageError if it cannot be read or holds something else."""
        try:
            loaded = torch.load(weights, map_location=device or "cpu", weights_only=True)
            self._weights: dict[str, Tensor] = {name: value.float() for name, value in loaded.items()}
            self._heads = [self._weights[f"lin{level}.model.1.weight"] for level in range(_LEVELS)]
            self._shift, self._scale = self._weights["scaling_layer.shift"], self._weights["scaling_layer.scale"]
            self._features(torch.zeros(1, 3, 64, 64, device=device))
        except Exception as error:  # a pickle can fail in any way; a wrong file lacks names or has other shapes
            raise UsageError(
                f"cannot read {weights} as weights of the perceptual distance: use alex_shift_tolerant.pth of the "
                "package stlpips-pytorch"
            ) from error

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, B values; `a` and `b` are B x 3 x H x W in 0..1, at least 32 x 32."""
        total = torch.zeros(a.shape[0], device=a.device)
        for head, one, other in zip(self._heads, self._features(a), self._features(b), strict=True):
            difference = (F.normalize(one.float(), eps=1e-10) - F.normalize(other.float(), eps=1e-10)).square()
            total = total + F.conv2d(difference, head).mean((1, 2, 3))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        x = ((2 * images - 1 - self._shift) / self._scale).contiguous(memory_format=torch.channels_last)
        one = F.relu(self._shrink(self._conv(x, "slice1.0", 2), "slice1.1"))
        x = self._shrink(F.max_pool2d(one, 3, 1), "slice2.4")
        two = F.relu(self._conv(x, "slice2.5", 2))
        x = self._shrink(F.max_pool2d(two, 3, 1), "slice3.8")
        three = F.relu(self._conv(x, "slice3.9", 1))
        four = F.relu(self._conv(three, "slice4.11", 1))
        return [one, two, three, four, F.relu(self._conv(four, "slice5.13", 1))]

    def _conv(self, x: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(x, self._weights[f"net.{name}.weight"], self._weights[f"net.{name}.bias"], padding=padding)

    def _shrink(self, x: Tensor, name: str) -> Tensor:
        """Every second value of a blurred map."""
        blur = self._weights[f"net.{name}.filt"]
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), blur, stride=2, groups=x.shape[1])


class _Vgg:
    """The features of a VGG network: rectified 3x3 convolutions in stages, which begin at half the size of the last."""

    def __init__(self, weights: Path, stages: Sequence[Sequence[str]], kind: str, device: torch.device | None) -> None:
        """Reads a .pth file with the weights and biases of these convolutions.

        Raises UsageError if it cannot be read or holds something else.
        """
        try:
            loaded = torch.load(weights, map_location=device or "cpu", weights_only=True)
            self._stages = [
                [(loaded[f"{name}.weight"].float(), loaded[f"{name}.bias"].float()) for name in stage]
                for stage in stages
            ]
            self.feature(torch.zeros(1, 3, 32, 32, device=device))
        except Exception as error:  # a pickle can fail in any way; a wrong file lacks names or has other shapes
            raise UsageError(f"cannot read {weights} as weights of {kind}") from error

    def feature(self, images: Tensor) -> Tensor:
        """The result of the last convolution, before it is rectified."""
        x = images.contiguous(memory_format=torch.channels_last)
        for number, stage in enumerate(self._stages):
            x = x if number == 0 else F.max_pool2d(F.relu(x), 2)
            for place, layer in enumerate(stage):
                x = F.conv2d(x if place == 0 else F.relu(x), *layer, padding=1)
        return x


class Vgg19Distance:
    """Mean absolute difference of VGG-19 features before the ReLU, equation (5.10).

    The text does not name the layer: this is the last convolution (conv5_4), as in ESRGAN.
    """

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        """Reads a .pth file; raises UsageError if it cannot be read or holds something else."""
        advice = "use a .pth file with the tensors features.0.weight to features.34.bias, as torchvision names them"
        self._vgg = _Vgg(weights, _VGG19, f"VGG-19: {advice}", device)
        self._shift, self._scale = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION)
        )

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, B values; `a` and `b` are B x 3 x H x W in 0..1, at least 32 x 32."""
        one, other = (self._vgg.feature((images - self._shift) / self._scale) for images in (a, b))
        return (one.float() - other.float()).abs().mean((1, 2, 3))


class VggFaceDistance:
    """Mean squared difference of VGG-Face's features relu5_3, MPENet's equation (10)."""

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        """Reads a .pth file; raises UsageError if it cannot be read or holds something else."""
        advice = "use a .pth file with the tensors conv1_1.weight to conv5_3.bias"
        self._vgg = _Vgg(weights, _VGG_FACE, f"VGG-Face: {advice}", device)
        self._mean = torch.tensor(_FACE_MEAN, device=device).view(1, 3, 1, 1)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, B values; `a` and `b` are B x 3 x H x W in 0..1, at least 32 x 32."""
        one, other = (F.relu(self._vgg.feature(255 * images - self._mean)) for images in (a, b))
        return (one.float() - other.float()).square().mean((1, 2, 3))
