"""Zooming SlowMo's published forward pass, written out plainly, with which speed.py compares the engine.

It runs in float32, one temporal window at a time, with every layer where the dissertation (6.3) has it: nothing is
shared between windows, between the two directions of time, or between the two uses of a feature. Only the deformable
convolution is vidsr's own, the fastest one in plain torch; the published one is a compiled extension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.layers.deformable import deformable_conv
from vidsr.nets.zsm.network import ZoomingSlowMo

SLOPE = 0.1
LEVELS = 3
# The published configuration. The low-resolution head does not take part in the forward pass, so its size may vary.
PUBLISHED = {
    "levels": LEVELS, "kernel": 3, "state_levels": LEVELS, "state_sides": 2, "state_joint": False,
    "shared_sides": False, "residual": False,
}  # fmt: skip


def is_published(network: ZoomingSlowMo) -> bool:
    """Whether the network has the published parts, in any width and depth."""
    config = network.config
    parts = all(getattr(config, name) == value for name, value in PUBLISHED.items())
    return parts and config.state_width == config.width and config.upsampler_width > 0


class PlainZoomingSlowMo:
    """The weights of a network of the published shape, by name, and the forward pass as a function of them."""

    def __init__(self, network: ZoomingSlowMo, device: torch.device) -> None:
        if not is_published(network):
            raise ValueError("only the published parts are written out here")
        self._weights = {name: tensor.float().to(device) for name, tensor in network.state_dict().items()}
        self._front, self._back = network.config.front_blocks, network.config.back_blocks

    @torch.inference_mode()
    def __call__(self, clip: Tensor) -> Tensor:
        """A window N x 3 x h x w in 0..1 to its 2N - 1 results, 3 x 4h x 4w, not clamped."""
        features = _leaky(self._conv("conv_first", clip))
        for index in range(self._front):
            features = self._block(f"feature_extraction.{index}", features)
        given = self._pyramid("", features)
        before, after = [level[:-1] for level in given], [level[1:] for level in given]
        moments = features.new_empty(2 * len(clip) - 1, *features.shape[1:])
        moments[::2], moments[1::2] = features, self._blend("", before, after)
        forwards = self._recurrence(list(moments.split(1)))
        backwards = self._recurrence(list(moments.split(1))[::-1])[::-1]
        hidden = torch.cat((torch.cat(forwards), torch.cat(backwards)), dim=1)
        x = self._conv("ConvBLSTM.conv_1x1", hidden)
        for index in range(self._back):
            x = self._block(f"recon_trunk.{index}", x)
        x = _leaky(F.pixel_shuffle(self._conv("upconv1", x), 2))
        x = _leaky(F.pixel_shuffle(self._conv("upconv2", x), 2))
        return self._conv("conv_last", _leaky(self._conv("HRconv", x)))

    def _conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return F.conv2d(x, weight, self._weights[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def _block(self, name: str, x: Tensor) -> Tensor:
        return x + self._conv(f"{name}.conv2", F.relu(self._conv(f"{name}.conv1", x)))

    def _pyramid(self, prefix: str, x: Tensor) -> list[Tensor]:
        levels = [x]
        for level in range(2, LEVELS + 1):
            x = _leaky(self._conv(f"{prefix}fea_L{level}_conv1", x, stride=2))
            x = _leaky(self._conv(f"{prefix}fea_L{level}_conv2", x))
            levels.append(x)
        return levels

    def _align(self, prefix: str, moved: list[Tensor], still: list[Tensor], side: int) -> Tensor:
        """The finest level of `moved`, aligned with `still` (pyramid, cascading and deformable)."""
        guide = result = None
        for level in range(LEVELS, 0, -1):
            name, source = f"{prefix}pcd_align.L{level}", moved[level - 1]
            offset = _leaky(self._conv(f"{name}_offset_conv1_{side}", torch.cat((source, still[level - 1]), 1)))
            if guide is not None:
                offset = torch.cat((offset, 2 * _doubled(guide, offset)), 1)
            offset = _leaky(self._conv(f"{name}_offset_conv2_{side}", offset))
            if guide is not None:
                offset = _leaky(self._conv(f"{name}_offset_conv3_{side}", offset))
            guide, aligned = offset, self._deform(f"{name}_dcnpack_{side}", source, offset)
            if result is not None:
                both = torch.cat((aligned, _doubled(result, aligned)), 1)
                aligned = self._conv(f"{name}_fea_conv_{side}", both)
            result = _leaky(aligned) if level > 1 else aligned
        assert result is not None
        return result

    def _deform(self, name: str, x: Tensor, guide: Tensor) -> Tensor:
        read = self._conv(f"{name}.conv_offset_mask", guide)
        points = read.shape[1] // 3
        mask = torch.sigmoid(read[:, 2 * points :])
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return deformable_conv(x, read[:, : 2 * points], mask, weight, bias)

    def _blend(self, prefix: str, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Both features aligned with each other and joined (equations (6.1) to (6.4))."""
        sides = self._align(prefix, first, second, 1), self._align(prefix, second, first, 2)
        return self._conv(f"{prefix}fusion", torch.cat(sides, 1))

    def _recurrence(self, moments: list[Tensor]) -> list[Tensor]:
        """The hidden states after each moment, in the order given (equation (6.6))."""
        net = "ConvBLSTM.forward_net."
        hidden = cell = torch.zeros_like(moments[0])
        passed = []
        for x in moments:
            hidden, cell = (
                self._blend(f"{net}{part}.", self._pyramid(f"{net}{part}.", x), self._pyramid(f"{net}{part}.", state))
                for part, state in (("pcd_h", hidden), ("pcd_c", cell))
            )
            i, f, o, g = self._conv(f"{net}cell_list.0.conv", torch.cat((x, hidden), 1)).chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            passed.append(hidden)
        return passed


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    """Twice the size, bilinear; a level of odd size has one row or column too many, which is cut off."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x[..., : like.shape[-2], : like.shape[-1]]
