"""SECNet's branch of reference photographs: its formulas in float64, and that nothing changes without photographs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.hime_equations import Map, convolution, sampled
from tests.support.toy_engine import make_clip
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.errors import ModelError
from vidsr.models.loading import run_golden
from vidsr.models.onnx_export import graph_of
from vidsr.models.registry import build
from vidsr.nets.secnet.export_step import SECNetStep
from vidsr.nets.secnet.network import ClipReferences, SECNet
from vidsr.nets.secnet.references import PosedReferences, ReferenceBranch

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "flow_width": 4, "flow_depth": 2, "flow_levels": 2, "fusion_width": 6, "fusion_blocks": 1, "recurrent_width": 8,
    "encoder_blocks": 1, "decoder_blocks": 1, "t2": 2, "attention": True,
}  # fmt: skip
BRANCH = SIZES | {"reference_width": 6}


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def secnet(sizes: dict[str, Any] = BRANCH, strength: float = 0.0) -> SECNet:
    """The same weights with and without a branch; those of the branch are far from their initial values."""
    torch.manual_seed(0)
    network = build("secnet", sizes | {"reference_width": 0}).requires_grad_(False).eval()
    if "reference_width" in sizes:
        whole = build("secnet", sizes).requires_grad_(False).eval()
        whole.load_state_dict(whole.state_dict() | network.state_dict())
        network = whole
    assert isinstance(network, SECNet)
    if network.references is not None:
        randomize(network.references)
        network.references.scale_by(strength)
    return network


def randomize(branch: ReferenceBranch) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in branch.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def references_of(clip: Tensor, count: int = 2, side: int = 48) -> ClipReferences:
    poses = torch.tensor([[0.9, -0.2, 1.5], [0.2, 0.9, -1.0]]).expand(1, clip.shape[1], count, 2, 3)
    return ClipReferences(noise(1, count, 3, side, side, seed=7).float(), poses)


# ------------------------------------------------------------------------------------------------------------- oracle


def box(image: Map, side: int) -> Map:
    """The mean of the pixels of a square around each pixel, as far as they are inside."""
    reach, (height, width) = side // 2, image.shape
    result = np.zeros_like(image)
    for y, x in np.ndindex(height, width):
        result[y, x] = image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].mean()
    return result


def enlarged(values: Map, height: int, width: int) -> Map:
    """Bilinear on centered grids; edge pixels are repeated."""

    def taps(position: float, length: int) -> list[tuple[int, float]]:
        low = math.floor(position)
        pairs = [(low, 1 - (position - low)), (low + 1, position - low)]
        return [(min(max(k, 0), length - 1), weight) for k, weight in pairs]

    result = np.zeros((height, width, values.shape[2]))
    for y, x in np.ndindex(height, width):
        rows = taps((y + 0.5) * values.shape[0] / height - 0.5, values.shape[0])
        columns = taps((x + 0.5) * values.shape[1] / width - 0.5, values.shape[1])
        result[y, x] = sum(a * b * values[i, j] for i, a in rows for j, b in columns)
    return result


def leaky(x: Map) -> Map:
    return np.where(x > 0, x, 0.1 * x)


def folded(image: Map) -> Map:
    """The 4 x 4 pixels of each square as channels; all of red first."""
    height, width, channels = image.shape
    squares = image.reshape(height // 4, 4, width // 4, 4, channels).transpose(0, 2, 4, 1, 3)
    return squares.reshape(height // 4, width // 4, -1)


def luma(image: Map) -> Map:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))


def expected_branch(
    result: Map, photographs: list[Map], poses: list[Map], present: list[float], weights: dict[str, Map]
) -> tuple[Map, Map, Map]:
    """The image, the weights n x h x w and the aligned samples n x H x W; scale 4."""

    def conv(x: Map, name: str) -> Map:
        return convolution(x, weights, name)

    height, width = result.shape[0] // 4, result.shape[1] // 4
    small = luma(result).reshape(height, 4, width, 4).mean((1, 3))
    around = box(small, 9)[..., None]
    content = 2.2 * (folded(result) - around) / (around + 0.1)
    content = leaky(conv(leaky(conv(content, "content.0")), "content.1"))
    scores, features, samples = [], [], []
    for photograph, pose, exists in zip(photographs, poses, present, strict=True):
        around_each = box(luma(photograph), 37)
        details = 2.2 * (luma(photograph) - around_each) / (around_each + 0.1)
        places, inside = np.zeros((4 * height, 4 * width, 2)), np.zeros((height, width))
        for y, x in np.ndindex(*places.shape[:2]):
            places[y, x] = 4 * (pose @ ((x + 0.5) / 4, (y + 0.5) / 4, 1.0))
        for y, x in np.ndindex(height, width):
            u, v = 4 * (pose @ (x + 0.5, y + 0.5, 1.0))
            inside[y, x] = 0 <= u <= details.shape[1] and 0 <= v <= details.shape[0]

        def at(where: Map, details: Map = details) -> Map:
            values = [sampled(details, v - 0.5, u - 0.5) for u, v in where.reshape(-1, 2)]
            return np.array(values).reshape(where.shape[:2])

        guide = conv(content, "guide_content") + conv(folded(at(places)[..., None]), "guide_reference")
        guide = leaky(guide)
        coarse = leaky(conv(guide, "coarse.0")[::2, ::2])  # a stride of 2
        for k in (1, 2):
            coarse = leaky(conv(coarse, f"coarse.{k}"))
        coarse = conv(coarse, "coarse.3")
        offsets = 8 * enlarged(coarse, 4 * height, 4 * width) + 4 * enlarged(conv(guide, "fine"), 4 * height, 4 * width)
        samples.append(at(places + offsets))
        feature = leaky(conv(folded(samples[-1][..., None]), "extract"))
        score = conv(leaky(conv(np.dstack([feature, content]), "score.0")), "score.1")[..., 0]
        covered = inside * exists
        scores.append(covered / (1 + np.exp(-score)))
        features.append(feature)
    shares = np.array(scores) ** 2 / np.maximum(sum(scores), 1e-6)
    found = sum(share[..., None] * feature for share, feature in zip(shares, features, strict=True))
    change = conv(leaky(conv(content * shares.sum(0)[..., None] + found, "join")), "out") * shares.sum(0)[..., None]
    change *= (around + 0.1) / 0.55
    unfolded = change.reshape(height, width, 3, 4, 4).transpose(0, 3, 1, 4, 2).reshape(4 * height, 4 * width, 3)
    return result + unfolded, shares, np.array(samples)


# --------------------------------------------------------------------------------------------------------------- parts


def test_the_branch_computes_its_formulas() -> None:
    """In float64 to 1e-10, with photographs that cover a part of the result, one of which does not exist."""
    torch.manual_seed(0)
    branch = ReferenceBranch(5, 4).double().requires_grad_(False)
    randomize(branch)
    weights = {name: tensor.numpy() for name, tensor in branch.state_dict().items()}
    result, photographs = noise(1, 3, 20, 28), noise(1, 3, 3, 24, 24, seed=5)
    poses = torch.tensor(
        [
            [[0.8, -0.2, 1.0], [0.2, 0.8, -0.6]],
            [[1.0, 0.1, -2.0], [-0.1, 1.0, 0.5]],
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        ],
        dtype=torch.float64,
    )[None]
    present = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    found = branch(result, PosedReferences(branch.describe(photographs), poses, present))

    def as_map(tensor: Tensor) -> Map:
        return np.asarray(tensor.permute(1, 2, 0).numpy())

    image, shares, samples = expected_branch(
        as_map(result[0]),
        [as_map(each) for each in photographs[0]],
        list(poses[0].numpy()),
        present[0].tolist(),
        weights,
    )
    np.testing.assert_allclose(as_map(found.image[0]), image, atol=1e-10)
    np.testing.assert_allclose(found.weights[0].numpy(), shares, atol=1e-10)
    np.testing.assert_allclose(found.aligned[0].numpy(), samples, atol=1e-10)
    assert np.abs(image - as_map(result[0])).max() > 1e-2
    assert not found.weights[0, 2].any() and 0.05 < float(found.weights[0, :2].sum(0).mean()) < 0.95
    assert 0 < float(found.covered[0, 1].mean()) < 1


def test_the_same_photograph_twice_counts_once() -> None:
    branch = secnet(strength=0.5).references
    assert branch is not None
    result, photograph = noise(1, 3, 32, 32).float(), noise(1, 1, 3, 48, 48, seed=2).float()
    images, totals = [], []
    for count in (1, 3):
        poses = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 2.0]]).expand(1, count, 2, 3)
        found = branch(result, PosedReferences(branch.describe(photograph.expand(1, count, 3, 48, 48)), poses))
        images.append(found.image)
        totals.append(found.weights.sum(1))
    torch.testing.assert_close(*images, atol=1e-5, rtol=0)
    torch.testing.assert_close(*totals, atol=1e-5, rtol=0)
    assert (images[0] - result).abs().max() > 1e-3


def test_detail_moves_by_fractions_of_a_pixel() -> None:
    """What is folded is the image at the pose: a photograph moved by half a small pixel is the moved photograph."""
    branch = ReferenceBranch(4, 4)
    picture = noise(1, 1, 3, 64, 64).float()
    result = torch.zeros(1, 3, 48, 48)
    half = torch.tensor([[[[1.0, 0.0, 0.5], [0.0, 1.0, 0.25]]]])  # 2 and 1 pixels of the photograph
    details = branch.describe(picture)
    with torch.no_grad():
        aligned = branch(result, PosedReferences(details, half)).aligned[0, 0]
    torch.testing.assert_close(aligned, details[0, 0, 0, 1:49, 2:50], atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------- what does not change
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_without_references_every_bit_is_the_same(is_mirrored: bool) -> None:
    """In a stream and in a graph, whatever the branch has learned."""
    plain, whole = (secnet(sizes | {"mirrored": is_mirrored}, strength=0.5) for sizes in (SIZES, BRANCH))
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


def test_with_a_strength_of_0_every_bit_is_the_same() -> None:
    clip = noise(1, 4, 3, 16, 12).float()
    expected = secnet(SIZES)(clip).results
    references = references_of(clip)
    assert torch.equal(secnet(strength=0.0)(clip, references=references).results, expected)
    assert (secnet(strength=0.5)(clip, references=references).results - expected).abs().max() > 1e-3
    absent = references._replace(present=torch.zeros(1, 2))
    assert torch.equal(secnet(strength=0.5)(clip, references=absent).results, expected)


def test_a_new_branch_starts_without_effect_and_learns() -> None:
    torch.manual_seed(0)
    network = build("secnet", BRANCH)
    assert isinstance(network, SECNet) and network.references is not None
    clip = noise(1, 3, 3, 16, 12).float()
    found = network(clip, references=references_of(clip))
    assert torch.equal(found.results, network(clip).results)
    (found.results.square().mean() + found.referred.aligned.square().mean()).backward()
    gradients = {name: parameter.grad for name, parameter in network.references.named_parameters()}
    assert all(gradients[name].any() for name in ("out.weight", "fine.weight", "coarse.3.weight"))


def test_past_results_are_those_without_references() -> None:
    network, clip = secnet(strength=0.5), noise(1, 3, 3, 16, 12).float()
    with_them, without = network(clip, references=references_of(clip)), network(clip)
    assert all(torch.equal(a, b) for a, b in zip(with_them.state.results, without.state.results, strict=True))
    assert not torch.equal(with_them.results, without.results)


def test_every_frame_has_its_own_pose() -> None:
    network, clip = secnet(strength=0.5), noise(1, 4, 3, 16, 12).float()
    references = references_of(clip)
    poses = references.poses.clone()
    poses[:, 2:, :, :, 2] += 3
    still, moved = (
        network(clip, references=each).results[0] for each in (references, references._replace(poses=poses))
    )
    assert torch.equal(still[:2], moved[:2]) and (still[2] - moved[2]).abs().max() > 1e-4


def test_the_stored_example_uses_the_branch() -> None:
    clip = np.random.default_rng(1).integers(0, 256, (3, 3, 16, 12), np.uint8)
    without, learned = (run_golden(secnet(strength=gain), clip) for gain in (0.0, 0.5))
    np.testing.assert_array_equal(without, run_golden(secnet(SIZES), clip))
    assert np.abs(without - learned).max() > 1e-3


# --------------------------------------------------------------------------------------------------------------- sizes


def test_the_branch_keeps_its_budget() -> None:
    """With three references less than a quarter of the multiply-adds of both passes of secnet-fast-face."""
    branch = ReferenceBranch(32, 4)
    assert sum(p.numel() for p in branch.parameters() if p.requires_grad) == 83_733
    references = PosedReferences(torch.zeros(1, 3, 1, 160, 160), torch.eye(2, 3).expand(1, 3, 2, 3))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        branch(torch.zeros(1, 3, 128, 128), references)
    assert counter.get_total_flops() / 2 / 32**2 == 98_512 < 0.16 * 643_390


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(ModelError, match="reference_width cannot be negative"):
        build("secnet", SIZES | {"reference_width": -1})
