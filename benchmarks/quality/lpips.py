"""LPIPS, shift-tolerant, on AlexNet (Zhang et al., CVPR 2018; Ghildyal and Liu, ECCV 2022), a perceptual metric.

The weights are not part of this repository: they are alex_shift_tolerant.pth of the package stlpips-pytorch (BSD-2),
which itself is not imported. For benchmarks only.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


class Lpips:
    """The perceptual distance of two frames; 0 for equal frames."""

    def __init__(self, weights: Path) -> None:
        """`weights`: the .pth file."""
        self._w: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> float:
        """Both 3 x H x W in 0..1."""
        total = 0.0
        for level, (one, other) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            difference = (F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)).square()
            total += float(F.conv2d(difference, self._w[f"lin{level}.model.1.weight"]).mean())
        return total

    def _features(self, image: Tensor) -> list[Tensor]:
        w = self._w
        x = (2 * image[None] - 1 - w["scaling_layer.shift"]) / w["scaling_layer.scale"]
        one = F.relu(self._blurred(self._conv(x, "slice1.0", 2), "slice1.1"))
        x = self._blurred(F.max_pool2d(one, 3, 1), "slice2.4")
        two = F.relu(self._conv(x, "slice2.5", 2))
        x = self._blurred(F.max_pool2d(two, 3, 1), "slice3.8")
        three = F.relu(self._conv(x, "slice3.9", 1))
        four = F.relu(self._conv(three, "slice4.11", 1))
        return [one, two, three, four, F.relu(self._conv(four, "slice5.13", 1))]

    def _conv(self, x: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(x, self._w[f"net.{name}.weight"], self._w[f"net.{name}.bias"], padding=padding)

    def _blurred(self, x: Tensor, name: str) -> Tensor:
        return F.conv2d(
            F.pad(x, (2, 2, 2, 2), mode="reflect"), self._w[f"net.{name}.filt"], stride=2, groups=x.shape[1]
        )
