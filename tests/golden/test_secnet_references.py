"""SECNet's branch of reference photographs: poses and transfer in float64, and that nothing changes without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.hime_equations import blocks, convolution, dconv, sampled, space_to_depth
from tests.support.toy_engine import make_clip
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.errors import ModelError
from vidsr.models.loading import run_golden
from vidsr.models.onnx_export import graph_of
from vidsr.models.registry import build
from vidsr.nets.layers.references import References
from vidsr.nets.secnet.export_step import SECNetStep
from vidsr.nets.secnet.network import ClipReferences, SECNet
from vidsr.nets.secnet.references import PosedReferences, ReferenceBranch, pose_references

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "flow_width": 4, "flow_depth": 2, "flow_levels": 2, "fusion_width": 6, "fusion_blocks": 1, "recurrent_width": 8,
    "encoder_blocks": 1, "decoder_blocks": 1, "t2": 2, "attention": True,
}  # fmt: skip
BRANCH = SIZES | {"reference_blocks": 1}


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def secnet(sizes: dict[str, Any] = BRANCH, gain: float = 0.0) -> SECNet:
    """The same weights with and without a branch; those of the branch are far from their initial values."""
    torch.manual_seed(0)
    network = build("secnet", sizes | {"reference_blocks": 0}).requires_grad_(False).eval()
    if "reference_blocks" in sizes:
        whole = build("secnet", sizes).requires_grad_(False).eval()
        whole.load_state_dict(whole.state_dict() | network.state_dict())
        network = whole
    assert isinstance(network, SECNet)
    if network.references is not None:
        randomize(network.references, gain)
    return network


def randomize(branch: ReferenceBranch, gain: float) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in branch.named_parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.4 if "offset" in name else 0.1))
    branch.gain.fill_(gain)


def references_of(clip: Tensor, count: int = 2, side: int = 48) -> ClipReferences:
    poses = torch.tensor([[0.9, -0.2, 1.5], [0.2, 0.9, -1.0]]).expand(1, clip.shape[1], count, 2, 3)
    return ClipReferences(noise(1, count, 3, side, side, seed=7).float(), poses)


# --------------------------------------------------------------------------------------------------------------- parts


def test_features_are_sampled_through_the_pose() -> None:
    """Pixel by pixel in float64; what lies beyond the canvas is 0, also in `present`."""
    references = References(noise(2, 2, 3, 6, 7), noise(2, 2, 3, 6, 7, seed=2))
    poses = torch.randn(2, 2, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    poses[..., :2] += torch.eye(2)
    poses[..., 2] *= 2
    present = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    posed = pose_references(references, poses, present, (5, 8))
    expected = [np.zeros((2, 2, 3, 5, 8)), np.zeros((2, 2, 3, 5, 8)), np.zeros((2, 2, 5, 8))]
    canvas = np.ones((6, 7))
    for b, k, y, x in np.ndindex(2, 2, 5, 8):
        u, v = poses[b, k].numpy() @ (x + 0.5, y + 0.5, 1.0)
        for part, features in zip(expected[:2], references, strict=True):
            part[b, k, :, y, x] = [sampled(channel.numpy(), v - 0.5, u - 0.5) for channel in features[b, k]]
        expected[2][b, k, y, x] = sampled(canvas, v - 0.5, u - 0.5) * float(present[b, k])
    for part, features in zip(expected, posed, strict=True):
        np.testing.assert_allclose(features.numpy(), part, atol=1e-12)
    assert 0 < float(posed.present.mean()) < 0.75


def test_the_branch_computes_himes_equations() -> None:
    """In float64 to 1e-12, with references that cover a part of the feature."""
    torch.manual_seed(0)
    branch = ReferenceBranch(4, 1, 4, groups=2).double().requires_grad_(False)
    randomize(branch, 0.7)
    weights = {name: tensor.numpy() for name, tensor in branch.state_dict().items()}
    feature, photograph, lows = noise(1, 4, 5, 6), noise(1, 3, 20, 24, seed=5), noise(2, 4, 5, 6, seed=9)
    present = (noise(1, 2, 5, 6, seed=6) > 0.3).double()
    high = torch.stack([branch.high(photograph)[0], noise(4, 5, 6, seed=8)])[None]
    posed = PosedReferences(high, branch.alignment.of_reference(lows)[None], present)
    found, shares = branch(feature, posed)

    def as_map(tensor: Tensor) -> Any:
        return tensor.permute(1, 2, 0).numpy()

    mono = convolution(as_map(photograph[0]), weights, "high.mono")
    described = blocks(convolution(space_to_depth(mono, 4), weights, "high.first"), weights, "high.body", 0, 1)
    np.testing.assert_allclose(as_map(high[0, 0]), described, atol=1e-12)
    content, mu, aligned = as_map(feature[0]), [], []
    for k in range(2):
        both = convolution(np.dstack([as_map(lows[k]), content]), weights, "alignment.guide")
        guide = np.where(both > 0, both, 0.1 * both)
        aligned.append(dconv(as_map(high[0, k]), guide, weights, "alignment.sample.0", 2))
        product = convolution(aligned[k], weights, "aggregation.of_reference")
        product = (product * convolution(content, weights, "aggregation.of_content")).sum(2)
        mu.append(present[0, k].numpy() / (1 + np.exp(-product)))
    total = sum(mu) + 1 / (1 + np.exp(-weights["aggregation.no_reference"]))
    added = sum(each[..., None] * a for each, a in zip(mu, aligned, strict=True)) / total[..., None]
    np.testing.assert_allclose(as_map(found[0]), content + 0.7 * added, atol=1e-12)
    np.testing.assert_allclose(shares[0].numpy(), np.array(mu) / total, atol=1e-12)
    assert np.abs(added).max() > 1e-2


def test_a_photograph_is_described_as_a_still_video() -> None:
    network = secnet()
    assert network.recurrent is not None and network.references is not None
    photographs = noise(1, 2, 3, 48, 48).float()
    described = network.describe(photographs)
    low = network.reduction(photographs[0])
    first = network.fuse([low] * 3, torch.zeros(2, len(network.config.offsets), 2, 12, 12))
    feature = network.recurrent.head(torch.cat((first, torch.zeros(2, 96, 12, 12)), dim=1))
    expected = network.references.alignment.of_reference(feature)
    torch.testing.assert_close(described.low[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(described.high[0], network.references.high(photographs[0]), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="must be multiples of 4"):
        network.describe(photographs[..., :46])


# ------------------------------------------------------------------------------------------------- what does not change


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_without_references_every_bit_is_the_same(is_mirrored: bool) -> None:
    """In a stream and in a graph, whatever the branch has learned."""
    plain, whole = (secnet(sizes | {"mirrored": is_mirrored}, gain=0.5) for sizes in (SIZES, BRANCH))
    frames = make_clip(4, height=24, width=20)
    results = []
    for network in (plain, whole):
        engine = RecurrentEngine(network, "x", CPU, "fp32")
        state, found = engine.init_state(24, 20), []
        for frame in frames:
            ready, state = engine.step(frame, state)
            found += ready
        results.append(torch.stack([frame.image for frame in (*found, *engine.flush(state))]))
    assert torch.equal(*results) and len(results[0]) == 4
    graphs = [onnx.load_from_string(graph_of(SECNetStep(network))).graph for network in (plain, whole)]
    steps = [[node.op_type for node in graph.node] for graph in graphs]
    weights = [sorted(tensor.raw_data for tensor in graph.initializer) for graph in graphs]
    assert steps[0] == steps[1] and weights[0] == weights[1] and len(weights[0]) > 10


def test_with_a_gain_of_0_every_bit_is_the_same() -> None:
    clip = noise(1, 4, 3, 16, 12).float()
    expected = secnet(SIZES)(clip).results
    references = references_of(clip)
    assert torch.equal(secnet(gain=0.0)(clip, references=references).results, expected)
    assert (secnet(gain=0.5)(clip, references=references).results - expected).abs().max() > 1e-3
    absent = references._replace(present=torch.zeros(1, 2))
    assert torch.equal(secnet(gain=0.5)(clip, references=absent).results, expected)


def test_a_new_branch_starts_without_effect_and_learns() -> None:
    torch.manual_seed(0)
    network = build("secnet", BRANCH)
    assert isinstance(network, SECNet) and network.references is not None
    clip = noise(1, 3, 3, 16, 12).float()
    network(clip, references=references_of(clip)).results.square().mean().backward()
    assert not network.references.gain.any() and network.references.gain.grad is not None
    assert (network.references.gain.grad != 0).any()


def test_every_frame_has_its_own_pose() -> None:
    network, clip = secnet(gain=0.5), noise(1, 4, 3, 16, 12).float()
    references = references_of(clip)
    poses = references.poses.clone()
    poses[:, 2:, :, :, 2] += 3
    still, moved = (
        network(clip, references=each).results[0] for each in (references, references._replace(poses=poses))
    )
    assert torch.equal(still[:2], moved[:2]) and (still[2] - moved[2]).abs().max() > 1e-4


def test_the_stored_example_uses_the_branch() -> None:
    clip = np.random.default_rng(1).integers(0, 256, (3, 3, 16, 12), np.uint8)
    without, learned = (run_golden(secnet(gain=gain), clip) for gain in (0.0, 0.5))
    np.testing.assert_array_equal(without, run_golden(secnet(SIZES), clip))
    assert np.abs(without - learned).max() > 1e-3


# --------------------------------------------------------------------------------------------------------------- sizes


def test_the_branch_keeps_its_budget() -> None:
    """With three references a fifth more multiply-adds than a pass of secnet-fast-face has."""
    branch = ReferenceBranch(32, 2, 4, groups=8)
    assert sum(p.numel() for p in branch.parameters()) == 82_549
    features = torch.zeros(1, 3, 32, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        branch(features[:, 0], PosedReferences(features, features, torch.ones(1, 3, 32, 32)))
    assert counter.get_total_flops() / 2 / 32**2 == 69_888 < 0.22 * 643_390 / 2


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"reference_blocks": -1}, "reference_blocks cannot be negative"),
        ({"reference_blocks": 1, "recurrent_width": 6}, "references belong to a narrow network"),
        ({"reference_blocks": 1, "recurrent_fusion": False}, "references belong to a narrow network"),
        ({"reference_blocks": 1, "estimator_width": 4}, "references belong to a narrow network"),
        ({"reference_blocks": 1, "unshuffle": 2}, "references belong to a narrow network"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        build("secnet", SIZES | sizes)
