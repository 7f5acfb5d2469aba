"""SECNet with `unshuffle`: layers at half of the frame's size, for a scale of 2."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.unit.test_onnx_export import NARROW
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.errors import ModelError
from vidsr.models.registry import build
from vidsr.nets.layers.blocks import BicubicPhases
from vidsr.nets.layers.resize import resize
from vidsr.nets.secnet.network import SECNet
from vidsr.train.initialization import start_from
from vidsr.train.losses import flow_loss
from vidsr.types import Frame

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("two_threads")]

HALVED = NARROW | {"scale": 2, "unshuffle": 2}


def rough(arguments: dict[str, object], seed: int = 0) -> SECNet:
    """A network far from its initialization."""
    torch.manual_seed(seed)
    network = build("secnet", arguments).requires_grad_(False).eval()
    assert isinstance(network, SECNet)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


def clip_of(length: int, height: int, width: int) -> Tensor:
    return torch.rand(length, 3, height, width, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_the_enlargement_is_folded_by_the_scale_and_the_squares(size: tuple[int, int]) -> None:
    image = clip_of(2, *size)
    height, width = size
    phases = BicubicPhases(2, unshuffle=2)(image)
    assert phases.shape == (2, 48, -(-height // 2), -(-width // 2))
    even = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    assert torch.equal(F.pixel_shuffle(phases, 4), F.pixel_shuffle(BicubicPhases(2)(even), 2))
    torch.testing.assert_close(
        F.pixel_shuffle(phases, 4)[..., 4 : 2 * height - 4, 4 : 2 * width - 4],
        resize(image, (2 * height, 2 * width))[..., 4:-4, 4:-4],  # which continues an image differently at its edges
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_it_starts_from_the_network_of_twice_the_scale_on_frames_of_half_the_size(tmp_path: Path) -> None:
    """On squares of equal pixels, both see the same: with a first frame, which needs no motion, residuals are equal."""
    plain = rough(NARROW)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    halved = rough(HALVED, seed=1)
    start_from(halved, tmp_path / "plain.safetensors")
    small = clip_of(1, 12, 16)
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    no_motion = torch.zeros(1, len(plain.config.offsets), 2, 12, 16)
    ours, theirs = halved.fuse([large] * 3, no_motion), plain.fuse([small] * 3, no_motion)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert float(theirs.std()) > 0.01
    torch.testing.assert_close(
        halved.motion(halved.pyramid(large), [halved.pyramid(large.flip(-1))]),
        plain.motion(plain.pyramid(small), [plain.pyramid(small.flip(-1))]), atol=1e-5, rtol=0,
    )  # fmt: skip


def test_weights_of_other_widths_are_refused(tmp_path: Path) -> None:
    save_file(rough(NARROW | {"fusion_width": 5}).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit the network"):
        start_from(rough(HALVED), tmp_path / "other.safetensors")


@pytest.mark.parametrize("arguments", [{}, {"estimator_width": 4, "modulation_width": 4}, {"mirrored": True}])
@pytest.mark.parametrize("size", [(12, 16), (13, 18), (9, 11)])
def test_a_stream_equals_the_whole_clip(arguments: dict[str, object], size: tuple[int, int]) -> None:
    network, clip = rough(HALVED | arguments), clip_of(5, *size)
    expected = network(clip[None]).results[0].clamp(0, 1)
    if network.config.mirrored:
        expected = (expected + network(clip[None].flip(-1)).results[0].clamp(0, 1).flip(-1)) / 2
    assert expected.shape == (5, 3, 2 * size[0], 2 * size[1])
    for is_overlapped in (False, True):
        engine = RecurrentEngine(network, "halved", torch.device("cpu"), "fp32", is_overlapped)
        assert engine.info.scale == 2
        state, frames = engine.init_state(*size), list[Frame]()
        for t, image in enumerate(clip):
            ready, state = engine.step(Frame(image, 40 * t, Fraction(1, 1000), 40, t == 0), state)
            frames += ready
        frames += engine.flush(state)
        torch.testing.assert_close(torch.stack([frame.image for frame in frames]), expected, atol=1e-5, rtol=0)


def test_motion_at_half_the_size_is_compared_at_full_size() -> None:
    """A motion of 2 pixels of the frame is one of 1 pixel at half of its size."""
    wide = clip_of(1, 16, 40)
    low = torch.stack([wide[0, ..., 2 * t : 2 * t + 32] for t in range(3)])[None]
    flows = torch.zeros(1, 3, 2, 2, 8, 16)
    flows[:, :, 0, 0], flows[:, :, 1, 0] = 1.0, -1.0  # frame t shows at x what frame t - 1 shows at x + 2
    right = float(flow_loss(low[..., 4:-4], flows[..., 2:-2], (-1, 1), 0.0))
    wrong = float(flow_loss(low[..., 4:-4], -flows[..., 2:-2], (-1, 1), 0.0))
    assert right < 0.3 * wrong


def test_what_cannot_be_built() -> None:
    for arguments in ({"unshuffle": 3}, {"unshuffle": 0}, {"unshuffle": 2, "fusion_tail": 2}):
        with pytest.raises(ModelError, match="unshuffle"):
            build("secnet", NARROW | arguments)
