"""How far apart float32 results of one network may lie when its sums are added in another order.

Kernels for one processor add in another order than those for the next, those for a batch in another than those for one
image, and a part of a frame is added up differently from the whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

UNIT = 2.0**-24  # half the distance from 1 to the next float32


@torch.no_grad()
def rounding_gap(network: nn.Module, results: Callable[[nn.Module], Tensor]) -> float:
    """The largest difference that rounding explains between two float32 results of `network`, computed by `results`.

    A float32 sum of n products is, in whatever order, the exact sum of products each off by at most a share n u of
    itself, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). Roundings go both
    ways, so about sqrt(n) u is reached. Another order then does what weights do that are off by sqrt(n) u, n being the
    products of one value of their convolution. How far that gets depends on the network: a recurrent one amplifies what
    each frame hands on to the next. So it is measured, with weights off by that much, and taken twice, as both results
    are off, and once more twice, as other weights of this kind may be worse. What is rounded beside the sums, such as
    places in pixels and images of values up to 1, is 128 u.
    """
    other, chance = copy.deepcopy(network), torch.Generator().manual_seed(11)
    for parameter in other.parameters():
        products = max(1, parameter[0].numel())
        shares = torch.randn(parameter.shape, generator=chance, dtype=torch.float64) * UNIT * math.sqrt(products)
        parameter.copy_(parameter.double() * (1 + shares))
    change = float((results(other) - results(network)).abs().max())
    assert 0 < change < 1e-3, "the weights do not show, or so much that no comparison would tell anything"
    return 4 * change + 128 * UNIT
