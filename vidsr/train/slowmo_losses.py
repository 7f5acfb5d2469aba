"""The losses of Zooming SlowMo's training, equations (6.7) to (6.10) of the dissertation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vidsr.nets.zsm.network import GuidedOutput
from vidsr.train.losses import reconstruction_loss
from vidsr.train.recipe import GuidanceConfig


class SlowmoLosses(NamedTuple):
    """The weighted sum (6.10) and its parts, each a scalar tensor: (6.7), (6.8) and (6.9)."""

    total: Tensor
    result: Tensor
    first: Tensor
    second: Tensor


def slowmo_losses(
    output: GuidedOutput, truth: Tensor, guides: Tensor, config: GuidanceConfig, epsilon: float
) -> SlowmoLosses:
    """Results against `truth`, B x T x 3 x H x W; the head's pictures against `guides`, B x T x 3 x h x w; T odd.

    Counted from 1 as in the equations, the features interpolated once are those of the even frames (6.8), those
    interpolated twice of the odd ones but the first and the last (6.9). The Charbonnier penalty is taken per value and
    averaged, so that no term depends on the size of the crop; (6.7) prints one norm per frame.
    """
    result = reconstruction_loss(output.results, truth, epsilon)
    first = reconstruction_loss(output.firsts, guides[:, 1::2], epsilon)
    second = reconstruction_loss(output.seconds, guides[:, 2:-1:2], epsilon)
    total = config.lambda_1 * result + config.lambda_2 * first + config.lambda_3 * second
    return SlowmoLosses(total, result, first, second)
