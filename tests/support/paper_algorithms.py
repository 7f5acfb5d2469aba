"""Algorithms 1 to 4 of SECNet, line by line from its text, slow and in float64: the oracle of the network's tests.

Frames are numbered from 1, as there. Nothing of the package is used but weights and, in Algorithm 4, the modules whose
layers the text leaves open: the flow network, the fusion network, encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

from vidsr.nets.layers.blocks import ConvLSTMCell
from vidsr.nets.secnet.feature_encoding import OneWay
from vidsr.nets.secnet.network import SECNet

Theta = dict[str, Tensor]
Array = np.ndarray[Any, np.dtype[np.float64]]
Strategy = Literal["one-way", "cascaded", "fused"]


def theta_of(cell: ConvLSTMCell, inputs: list[slice]) -> Theta:
    """The weights of a cell by the paper's names. `inputs` are the places of the input's parts in the paper's order.

    The package keeps all gates in one convolution: input, forget, candidate, output; the hidden state comes last.
    """
    weight, bias = (p.detach().double() for p in (cell.gates.weight, cell.gates.bias))
    theta: Theta = {}
    for gate, w, b in zip("ifgo", weight.chunk(4), bias.chunk(4), strict=True):
        theta["e" + gate] = torch.cat([w[:, part] for part in inputs], dim=1)
        theta["h" + gate] = w[:, -cell.hidden_channels :]
        theta["b" + gate] = b.view(1, -1, 1, 1)
    return theta


def conv_lstm(h: Tensor, c: Tensor, e: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
    """The six steps below equation (5)."""

    def star(maps: Tensor, kernel: str) -> Tensor:
        return F.conv2d(maps, theta[kernel], padding=1)

    a_i = torch.sigmoid(star(e, "ei") + star(h, "hi") + theta["bi"])
    a_f = torch.sigmoid(star(e, "ef") + star(h, "hf") + theta["bf"])
    a_g = torch.tanh(star(e, "eg") + star(h, "hg") + theta["bg"])
    c = a_f * c + a_i * a_g
    a_o = torch.sigmoid(star(e, "eo") + star(h, "ho") + theta["bo"])
    return a_o * torch.tanh(c), c


def algorithm_1(e_t: Tensor, h_before: Tensor, c_before: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
    """One-way ConvLSTM; the enhanced feature is the hidden state."""
    return conv_lstm(h_before, c_before, e_t, theta)


def algorithms_2_and_3(
    e: Mapping[int, Tensor], t: int, t3: int, theta_b: Theta, theta_f: Theta, is_fused: bool
) -> Tensor:
    """Cascaded and fused bidirectional ConvLSTM over the features e[t - T_t + 1] to e[t].

    They differ in line 6. As printed both give [H_b, E] to the forward cell, but equation (8) and Fig. 3 (b) of the
    cascaded one have H_b alone.
    """
    t_t = min(t, t3 + 1)
    zero = torch.zeros_like(e[t])
    h_b, c_b = {t + 1: zero}, {t + 1: zero}
    h_f, c_f = {t - t_t: zero}, {t - t_t: zero}
    for k in range(t, t - t_t, -1):
        h_b[k], c_b[k] = conv_lstm(h_b[k + 1], c_b[k + 1], e[k], theta_b)
    for k in range(t - t_t + 1, t + 1):
        given = torch.cat((h_b[k], e[k]), dim=1) if is_fused else h_b[k]
        h_f[k], c_f[k] = conv_lstm(h_f[k - 1], c_f[k - 1], given, theta_f)
    return h_f[t]


def cubic(distance: Array, a: float) -> Array:
    """Keys' kernel."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d <= 1, near, np.where(d < 2, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a, 0.0))


def sample(planes: Array, y: Array, x: Array, a: float | None) -> Array:
    """C x h x w at the places y, x; beyond the border its pixel is repeated. `a` None is linear, else Keys' cubic."""
    if a is None:
        return np.stack([map_coordinates(plane, (y, x), order=1, mode="nearest") for plane in planes])
    height, width = planes.shape[1:]
    total = np.zeros((len(planes), *y.shape))
    row, column = np.floor(y), np.floor(x)
    for dy in range(-1, 3):
        for dx in range(-1, 3):
            there = planes[
                :, np.clip(row + dy, 0, height - 1).astype(int), np.clip(column + dx, 0, width - 1).astype(int)
            ]
            total += there * cubic(y - row - dy, a) * cubic(x - column - dx, a)
    return total


def warp(image: Array, field: Array, a: float | None = None) -> Array:
    """`image` C x h x w, read at every pixel displaced by `field` (x, y)."""
    y, x = np.mgrid[: image.shape[1], : image.shape[2]].astype(float)
    return sample(image, y + field[1], x + field[0], a)


def enlarge(planes: Array, factor: int, a: float | None) -> Array:
    """C x h x w to C x factor h x factor w on centered grids."""
    y, x = np.mgrid[: planes.shape[1] * factor, : planes.shape[2] * factor]
    return sample(planes, (y + 0.5) / factor - 0.5, (x + 0.5) / factor - 0.5, a)


@torch.no_grad()
def algorithm_4(network: SECNet, clip: Tensor) -> tuple[list[Array], list[Array]]:
    """Lines 1 to 16 on `clip` (N x 3 x h x w): the initial results and the results, 3 x 4h x 4w each, not clamped.

    Without the loss. Ours in it, where the paper is silent: cubic samples of low-resolution frames, the initial result
    as a residual to the bicubic enlargement, the result as one to the initial result, past results clamped to 0..1.
    """
    config = network.config
    n, scale, t1, t2 = len(clip), config.scale, config.t1, config.t2

    def tensor(array: Array) -> Tensor:
        return torch.from_numpy(array).float()[None]

    def array(tensor: Tensor) -> Array:
        return tensor[0].double().numpy()

    def fold(tensor: Tensor) -> Tensor:
        return F.pixel_shuffle(tensor, scale)

    encode_features = sequential_encoding(network)
    features: dict[int, Tensor] = {}
    results: dict[int, Array] = {}
    initial: dict[int, Array] = {}
    unclamped: dict[int, Array] = {}
    for t in range(1, n + 1):  # 2
        x = {k: clip[min(max(k, 1), n) - 1].double().numpy() for k in range(t - max(t1, t2), t + t1 + 1)}  # 3
        pyramids = {k: network.flow.pyramid(tensor(x[k])) for k in x}
        f = {k: array(network.flow(pyramids[t], pyramids[k])) for k in x}  # 4
        f[t] = np.zeros_like(f[t])
        initial[t] = enlarge(x[t], scale, -0.5)
        if network.fusion is not None:
            x_warped = [warp(x[k], f[k], -0.75) for k in range(t - t1, t + t1 + 1)]  # 5
            initial[t] = initial[t] + array(fold(network.fusion(tensor(np.concatenate(x_warped)))))  # 6
        if network.recurrent is None:
            unclamped[t] = initial[t]
            continue
        y = {k: results.get(k, np.zeros_like(initial[t])) for k in range(t - 1, t - t2 - 1, -1)}  # 7
        y_warped = [warp(y[k], scale * enlarge(f[k], scale, None)) for k in y]  # 8
        e_3, e_1_and_2 = network.recurrent.encode(tensor(np.concatenate([initial[t], *y_warped])))  # 9
        features[t] = e_3.double()  # 10 and 15
        enhanced = encode_features(features, t).float()  # 11
        unclamped[t] = initial[t] + array(network.recurrent.decode(e_3, enhanced, e_1_and_2))  # 12
        results[t] = unclamped[t].clip(0, 1)  # 15
    return [initial[t] for t in range(1, n + 1)], [unclamped[t] for t in range(1, n + 1)]


def sequential_encoding(network: SECNet) -> Callable[[Mapping[int, Tensor], int], Tensor]:
    """Line 11 for the network's strategy: from all features up to t to the enhanced one of t."""
    if network.recurrent is None:
        return lambda features, t: features[t]
    encoding, width = network.recurrent.encoding, network.config.recurrent_width
    if isinstance(encoding, OneWay):
        theta = theta_of(encoding.cell, [slice(0, width)])

        def one_way(features: Mapping[int, Tensor], t: int) -> Tensor:
            h = c = torch.zeros_like(features[t])
            for k in range(1, t + 1):
                h, c = algorithm_1(features[k], h, c, theta)
            return h

        return one_way
    is_fused = network.config.encoding == "fused"
    theta_b = theta_of(encoding.backward_cell, [slice(0, width)])
    theta_f = theta_of(encoding.forward_cell, forward_inputs(width, is_fused))
    return lambda features, t: algorithms_2_and_3(features, t, network.config.t3, theta_b, theta_f, is_fused)


def forward_inputs(width: int, is_fused: bool) -> list[slice]:
    """Where the parts of the forward cell's input, [H_b, E], stand in its weights: those have [E, H_b, H_f]."""
    return [slice(width, 2 * width), slice(0, width)] if is_fused else [slice(0, width)]
