"""Attention-FH: sizes of the tables, boxes, algorithm 1 line by line in float64, and REINFORCE's exact gradient."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.attention_fh_algorithm import restore
from vidsr.nets.attention_fh.boxes import choices, masks, random_actions, rectangles, sequential_actions
from vidsr.nets.attention_fh.config import RATIOS, AttentionFHConfig
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.train.policy import PolicyLosses, attention_losses, policy_loss
from vidsr.train.recipe import PolicyConfig

pytestmark = pytest.mark.numeric

SMALL = AttentionFHConfig(
    scale=4, steps=4, side=32, grid=4, heights=(8, 12, 16), history=6, hidden=5, context_side=2, context_channels=1
)


def small_network(config: AttentionFHConfig = SMALL, seed: int = 4) -> AttentionFH:
    torch.manual_seed(seed)
    network = AttentionFH(config).double()
    for parameter in network.parameters():  # outputs far from 0
        parameter.data.mul_(1.5)
    network.policy.given.weight.data.mul_(8)
    for head in network.heads:  # and a policy that decides by what it sees
        assert isinstance(head, torch.nn.Linear)
        head.bias.data.zero_()
    return network


def faces(count: int = 2, height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_the_parts_have_the_sizes_of_the_tables() -> None:
    """Table 1: 7,000 in convolutions and 131,136 in the linear layer; table 2 for color: 59,723 at a scale of 4."""
    network = AttentionFH(AttentionFHConfig(scale=4))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sum(p.numel() for p in network.extractor.convolutions.parameters()) == 7_000
    assert counts["extractor"] == 7_000 + 131_136 and counts["local"] == 59_723
    eight = AttentionFH(AttentionFHConfig(scale=8))
    assert sum(p.numel() for p in eight.local.parameters()) == 59_723 + 8 * 8 * 9 + 8
    with torch.no_grad():
        shapes = [step.image.shape for step in eight.steps(torch.rand(2, 3, 16, 16), count=2)]
    assert shapes == [(2, 3, 128, 128)] * 2 and eight.config.steps == 18


@pytest.mark.parametrize("count_of_pixels", [(32, 32), (20, 28)])
def test_a_mask_is_the_box_of_equation_5(count_of_pixels: tuple[int, int]) -> None:
    """Every candidate, pixel by pixel: inside are the pixels whose centers the rectangle holds."""
    height, width = count_of_pixels
    every = torch.tensor([[place, r, h] for place in range(16) for r in range(3) for h in range(3)])
    found = masks(rectangles(every, SMALL).double(), height, width)
    for (place, ratio, size), mask in zip(every.tolist(), found, strict=True):
        row, column = divmod(place, SMALL.grid)
        tall = SMALL.heights[size] / SMALL.side
        wide = tall / RATIOS[ratio]
        expected = [
            [
                abs((y + 0.5) / height - (row + 0.5) / 4) < tall / 2
                and abs((x + 0.5) / width - (column + 0.5) / 4) < wide / 2
                for x in range(width)
            ]
            for y in range(height)
        ]
        different = np.argwhere(mask[0].numpy() != np.array(expected))
        for y, x in different:  # only centers that lie on an edge, where rounding decides
            edges = (
                abs(abs((y + 0.5) / height - (row + 0.5) / 4) - tall / 2),
                abs(abs((x + 0.5) / width - (column + 0.5) / 4) - wide / 2),
            )
            assert min(edges) < 1e-6


def test_edges_are_faded_inside_the_box_but_not_at_the_border_of_the_image() -> None:
    box = torch.tensor([[0.0, 0.25, 0.5, 1.0]], dtype=torch.float64)
    mask = masks(box, 16, 16, fade=4)[0, 0]
    assert torch.equal(mask[:4], torch.zeros(4, 16, dtype=torch.float64))
    assert mask[4:8, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert mask[-1, :8].tolist() == [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125]
    assert not mask[:, 8:].any()


def test_boxes_in_sequence_cover_the_image() -> None:
    config = AttentionFHConfig(steps=9, grid=8, heights=(32, 48, 64))
    found = [masks(rectangles(sequential_actions(1, k, config), config), 128, 128) for k in range(9)]
    assert torch.stack(found).amax(dim=0).min() == 1
    drawn = random_actions(500, config, torch.Generator().manual_seed(0))
    assert [len(column.unique()) for column in drawn.T] == list(choices(config))


@pytest.mark.parametrize("fade", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_the_network_is_algorithm_1(fade: int, size: tuple[int, int]) -> None:
    """With the policy's most likely boxes, against the algorithm written line by line."""
    config = AttentionFHConfig(**{name: getattr(SMALL, name) for name in SMALL.__slots__} | {"fade": fade})
    network, image = small_network(config), faces(1, *size)
    with torch.no_grad():
        steps = network.steps(image)
        expected, boxes, logarithms = restore(network, image[0].numpy())
        assert [tuple(step.action[0].tolist()) for step in steps] == boxes
        np.testing.assert_allclose([float(step.log_probability) for step in steps], logarithms, rtol=1e-12)
        assert len(set(boxes)) > 1, "the policy looks at nothing"
        np.testing.assert_allclose(network(image)[0].numpy(), expected, rtol=0, atol=1e-12)
        again = network(image, torch.stack([step.action for step in steps], dim=1))
    np.testing.assert_array_equal(again[0].numpy(), network(image)[0].detach().numpy())


def test_drawn_boxes_have_the_probabilities_of_the_policy() -> None:
    """Each sequence of a face its own ones, whose logarithms are those that the algorithm gives these boxes."""
    network, image = small_network(), faces(1)
    with torch.no_grad():
        drawn = network.steps(image.expand(3, -1, -1, -1), generator=torch.Generator().manual_seed(2), sample=True)
    sequences = [[(int(p), int(r), int(h)) for p, r, h in (step.action[k] for step in drawn)] for k in range(3)]
    assert len(set(map(tuple, sequences))) == 3
    for k, sequence in enumerate(sequences):
        expected, _, logarithms = restore(network, image[0].numpy(), sequence)
        np.testing.assert_allclose([float(step.log_probability[k]) for step in drawn], logarithms, rtol=1e-12)
        np.testing.assert_allclose((drawn[-1].image[k].numpy() + 1) / 2, expected, rtol=0, atol=1e-12)


def test_faces_of_a_batch_do_not_see_each_other() -> None:
    network, image = small_network(), faces(3)
    with torch.no_grad():
        together = network(image)
        apart = torch.cat([network(one[None]) for one in image])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ REINFORCE


def test_the_policy_gradient_is_exact_in_expectation() -> None:
    """Over all pairs of sequences, weighted by their probabilities, it is the gradient of the expected reward."""
    logits = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 4.0, -2.0, 0.5], dtype=torch.float64)
    chance = logits.softmax(dim=0)
    (expected,) = torch.autograd.grad((chance * reward).sum(), logits)
    total = torch.zeros(4, dtype=torch.float64)
    for one, other in itertools.product(range(4), repeat=2):
        chosen = logits.log_softmax(dim=0)[[one, other]]
        (gradient,) = torch.autograd.grad(policy_loss(chosen, reward[[one, other]], sequences=2), logits)
        total -= (chance[one] * chance[other]).detach() * gradient
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


def test_the_policy_finds_a_known_optimum() -> None:
    """One of 16 places earns most; plain gradient ascent on drawn sequences ends with that place."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    reward = torch.linspace(0, 1, 16, dtype=torch.float64)[torch.randperm(16, generator=generator)]
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        drawn = torch.multinomial(logits.detach().softmax(dim=0).expand(8, 16), 4, True, generator=generator)
        chosen = logits.log_softmax(dim=0)[drawn.flatten()]
        optimizer.zero_grad()
        policy_loss(chosen, reward[drawn.flatten()], sequences=4).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert int(logits.argmax()) == int(reward.argmax()) and float(logits.softmax(dim=0).max().detach()) > 0.9


def test_each_part_learns_from_its_own_loss() -> None:
    """Random boxes train only the local network and its context; drawn ones also the policy."""
    network, low = small_network(), faces(2)
    truth = faces(2, 32, 32)
    for random_boxes in (True, False):
        network.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        losses = attention_losses(network, low, truth, PolicyConfig(sequences=3, weight=1.0), random_boxes)
        losses.total.backward()  # type: ignore[no-untyped-call]
        learned = [
            bool(parameter.grad is not None and parameter.grad.any()) for parameter in network.heads.parameters()
        ]
        assert all(learned) is not random_boxes
        assert all(bool(p.grad is not None and p.grad.any()) for p in network.local.parameters())
        assert math.isfinite(float(losses.reward))


def test_the_reward_is_the_gain_over_the_enlarged_face_and_the_coverage() -> None:
    network, low, truth = small_network(), faces(2), faces(2, 32, 32)
    losses = attention_losses(network, low, truth, PolicyConfig(coverage=3.0), random_boxes=True)
    torch.manual_seed(11)  # the same boxes again
    losses = attention_losses(network, low, truth, PolicyConfig(coverage=3.0), random_boxes=True)
    torch.manual_seed(11)
    actions = [random_actions(2, SMALL) for _ in range(SMALL.steps)]
    with torch.no_grad():
        steps = network.steps(low, actions)
    found = []
    for face in range(2):
        covered = np.max([step.mask[face, 0].numpy() for step in steps], axis=0).mean()
        gain = psnr((steps[-1].image[face].numpy() + 1) / 2, truth[face].numpy())
        gain -= psnr((network.enlarge(low)[face].detach().numpy() + 1) / 2, truth[face].numpy())
        found.append(gain + 3 * covered)
    assert float(losses.reward) == pytest.approx(np.mean(found), rel=1e-12)


def test_the_loss_is_the_error_in_the_boxes_and_that_of_the_policy() -> None:
    """(3.4) by hand: squared errors inside each box; -(r - b) log p, where b is the mean of the other sequences."""
    network, low, truth = small_network(), faces(2), faces(2, 32, 32)
    config = PolicyConfig(sequences=3, weight=0.7, coverage=2.0)
    found = attention_losses(network, low, truth, config, False, torch.Generator().manual_seed(6))
    found = PolicyLosses(*(each.detach() for each in found))
    with torch.no_grad():
        steps = network.steps(low.repeat_interleave(3, 0), generator=torch.Generator().manual_seed(6), sample=True)
        start = (network.enlarge(low).numpy() + 1) / 2
    local, rewards, logarithms = [], np.zeros((2, 3)), np.zeros((2, 3))
    for face, sequence in itertools.product(range(2), range(3)):
        k = 3 * face + sequence
        for step in steps:
            inside = step.mask[k, 0].numpy() == 1
            errors = step.enhanced[k].numpy() - (2 * truth[face].numpy() - 1)
            local.append((errors[:, inside] ** 2).mean())
            logarithms[face, sequence] += float(step.log_probability[k])
        covered = np.max([step.mask[k, 0].numpy() for step in steps], axis=0).mean()
        gain = psnr((steps[-1].image[k].numpy() + 1) / 2, truth[face].numpy()) - psnr(start[face], truth[face].numpy())
        rewards[face, sequence] = gain + 2 * covered
    others = np.stack([(rewards.sum(1) - rewards[:, k]) / 2 for k in range(3)], axis=1)
    policy = -((rewards - others) * logarithms).mean()
    assert float(found.local) == pytest.approx(np.mean(local), rel=1e-12)
    assert float(found.policy) == pytest.approx(policy, rel=1e-9) and abs(policy) > 1e-3
    assert float(found.total) == pytest.approx(np.mean(local) + 0.7 * policy, rel=1e-9)
    assert float(found.reward) == pytest.approx(rewards.mean(), rel=1e-12)


def psnr(image: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - truth) ** 2)))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"scale": 2}, "scale"), ({"steps": 0}, "steps"), ({"side": 40}, "side"), ({"heights": ()}, "heights"),
        ({"heights": (300,)}, "heights"), ({"fade": 9}, "fade"),
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AttentionFHConfig(**sizes)  # type: ignore[arg-type]
