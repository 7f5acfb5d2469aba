"""The training losses against values computed by hand, and where they send gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.tiny_training_data import TINY_NETWORK
from vidsr.models.registry import build
from vidsr.nets.secnet.network import ClipOutput, RecurrentState, SECNet
from vidsr.train.losses import flow_loss, reconstruction_loss, secnet_losses, smoothness
from vidsr.train.recipe import OptimizationConfig

SQUARES = OptimizationConfig(charbonnier_epsilon=0, weight_first=0.5, gamma=0.1, alpha=0.01)


def test_equation_4_by_hand() -> None:
    """One frame, c = 3, r^2 w h = 4: the squared norm 0.5^2 + 0.1^2 + 1^2 is divided by 12."""
    truth = torch.zeros(1, 1, 3, 2, 2)
    result = truth.clone()
    result[0, 0, 0, 0, 0], result[0, 0, 1, 1, 0], result[0, 0, 2, 1, 1] = 0.5, -0.1, 1
    assert float(reconstruction_loss(result, truth, 0)) == pytest.approx(1.26 / 12)


def test_charbonnier_by_hand() -> None:
    """sqrt(0.3^2 + 0.4^2) = 0.5 for three pixels off by 0.3, 0.4 for the one that is right."""
    result = torch.tensor([0.3, -0.3, 0.0, 0.3])
    assert float(reconstruction_loss(result, torch.zeros(4), 0.4)) == pytest.approx((3 * 0.5 + 0.4) / 4)


def test_smoothness_by_hand() -> None:
    """x displacement 2x + 3y, y displacement constant: 3 down, 2 across, each halved by the mean over both."""
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    flow = torch.stack((2 * x + 3 * y, torch.full((4, 5), 7.0)))
    assert float(smoothness(flow)) == pytest.approx(1.5 + 1.0)


def test_the_warping_error_by_hand() -> None:
    """Flat frames 0.2, 0.5, 0.9 at rest: 0.3 and 0.4 off in either direction, and no motion to smooth."""
    low = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 4, 4)
    assert float(flow_loss(low, torch.zeros(1, 3, 2, 2, 4, 4), (-1, 1), 0.01)) == pytest.approx(0.35)


def test_the_warping_error_of_two_frames_away_by_hand() -> None:
    """Flat frames 0.1, 0.2, 0.5, 0.9 at rest; T1 = 2, so K = 4 offsets, of which the frames near an end miss some.

    One frame apart: 0.1, 0.3, 0.4. Two apart: 0.4, 0.7. Back and forth are the same.
    """
    low = torch.tensor([0.1, 0.2, 0.5, 0.9]).view(1, 4, 1, 1, 1).expand(2, 4, 3, 4, 4)
    one, two = (0.1 + 0.3 + 0.4) / 3, (0.4 + 0.7) / 2
    for offsets, expected in (
        ((-1, -2, 1, 2), (one + two + one + two) / 4),
        ((-1, -2, 1), (one + two + one) / 3),  # T2 = 2 with T1 = 1
        ((-1, -2), (one + two) / 2),  # ERFFNet
        ((-1, -2, -3, 1), (one + two + 0.8 + one) / 4),
    ):
        flows = torch.zeros(2, 4, len(offsets), 2, 4, 4)
        assert float(flow_loss(low, flows, offsets, 0.01)) == pytest.approx(expected)


def test_each_field_is_judged_by_the_frame_it_points_at() -> None:
    low = moving_patch(6)
    offsets = (-1, -2, 1, 2)
    step = torch.tensor([2.0, 1.0])
    flows = torch.stack([offset * step for offset in offsets]).view(1, 1, 4, 2, 1, 1).expand(1, 6, 4, 2, 24, 24)
    assert float(flow_loss(low, flows, offsets, 1.0)) < 1e-6
    for other in ((-2, -1, 1, 2), (-1, -2, 2, 1), (1, 2, -1, -2)):
        assert float(flow_loss(low, flows, other, 0.0)) > 0.005
    for k, offset in enumerate(offsets):
        outside = flows.clone()
        ends = [t for t in range(6) if not 0 <= t + offset < 6]
        outside[:, ends, k] = 9.0  # those frames have no such neighbor
        assert float(flow_loss(low, outside, offsets, 0.0)) < 1e-6
        for t in set(range(6)) - set(ends):
            bad = flows.clone()
            bad[:, t, k] += 3.0
            assert float(flow_loss(low, bad, offsets, 0.0)) > 5e-4


def test_alpha_weighs_the_smoothness() -> None:
    low = torch.full((1, 2, 3, 4, 5), 0.5)
    flows = torch.randn(1, 2, 2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    assert float(flow_loss(low, flows, (-1, 1), 0.0)) == pytest.approx(0, abs=1e-6)  # any motion explains a flat clip
    assert float(flow_loss(low, flows, (-1, 1), 0.03)) == pytest.approx(0.03 * float(smoothness(flows)), rel=1e-4)


def moving_patch(length: int) -> Tensor:
    """A patch on a flat ground that moves 2 pixels right and 1 down per frame."""
    patch = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1))
    low = torch.full((1, length, 3, 24, 24), 0.5)
    for t in range(length):
        low[0, t, :, 6 + t : 12 + t, 6 + 2 * t : 12 + 2 * t] = patch
    return low


def shifted_clip() -> tuple[Tensor, Tensor]:
    """The moving patch, and the motion fields that say how it moves."""
    low = moving_patch(4)
    back = torch.tensor([-2.0, -1.0])  # the frame before shows the same thing further left and up
    flows = torch.stack((back, -back)).view(1, 1, 2, 2, 1, 1).expand(1, 4, 2, 2, 24, 24).clone()
    return low, flows


def test_the_exact_shift_costs_nothing_and_any_other_something() -> None:
    low, flows = shifted_clip()
    assert float(flow_loss(low, flows, (-1, 1), 1.0)) < 1e-6
    for wrong in (flows * 0, -flows, flows.flip(2), flows.flip(3)):
        assert float(flow_loss(low, wrong, (-1, 1), 0.0)) > 0.005


def test_the_ends_have_no_outer_neighbor() -> None:
    """The fields from the first frame backwards and from the last one forwards point at the frame itself."""
    low, flows = shifted_clip()
    flows[:, 0, 0] = flows[:, -1, 1] = 9.0
    assert float(flow_loss(low, flows, (-1, 1), 0.0)) < 1e-6
    for t, direction in ((1, 0), (3, 0), (0, 1), (2, 1)):
        bad = flows.clone()
        bad[:, t, direction] += 3.0
        assert float(flow_loss(low, bad, (-1, 1), 0.0)) > 1e-3


def test_equation_10_by_hand() -> None:
    """Final result off by 0.2, first one by 0.4, flat frames 0.3 apart: 0.04 + 0.5 * 0.16 + 0.1 * 0.3."""
    truth = torch.full((2, 2, 3, 16, 16), 0.5)
    low = torch.stack((torch.full((2, 3, 4, 4), 0.1), torch.full((2, 3, 4, 4), 0.4)), dim=1)
    state = RecurrentState((truth[:, 0],), ())
    output = ClipOutput(truth + 0.2, truth - 0.4, torch.zeros(2, 2, 2, 2, 4, 4), state)
    losses = secnet_losses(output, low, truth, (-1, 1), SQUARES)
    assert [float(part) for part in losses] == pytest.approx([0.04 + 0.08 + 0.03, 0.04, 0.16, 0.3], rel=1e-5)
    local = secnet_losses(output, low, truth, (-1, 1), SQUARES, pretraining=True)  # (2) and (3) alone
    assert [float(part) for part in local] == pytest.approx([0.16 + 0.03, 0.04, 0.16, 0.3], rel=1e-5)


def test_equation_10_as_the_paper_weighs_it() -> None:
    """Two frames off by 0.1 and 0.3, first results by 0.2 and 0.4: the mean over frames of L_e + L_l + 0.1 L_f."""
    truth = torch.full((1, 2, 3, 8, 8), 0.5)
    final, first = (torch.tensor(v).view(1, 2, 1, 1, 1) for v in ([0.1, 0.3], [0.2, 0.4]))
    low = torch.stack((torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), 0.4)), dim=1)
    x = torch.arange(4.0).expand(4, 4)
    flows = torch.zeros(1, 2, 2, 2, 4, 4)
    flows[..., 0, :, :] = 0.6 * x  # along x, so 0.6 across, halved by the mean over both displacements
    output = ClipOutput(truth + final, truth - first, flows, RecurrentState((), ()))
    paper = OptimizationConfig(charbonnier_epsilon=0, weight_first=1.0, gamma=0.1, alpha=0.01)
    losses = secnet_losses(output, low, truth, (-1, 1), paper)
    expected = (0.01 + 0.04) / 2 + (0.09 + 0.16) / 2 + 0.1 * (0.3 + 0.01 * 0.3)
    assert float(losses.total) == pytest.approx(expected, rel=1e-5)


def learning() -> tuple[SECNet, Tensor, Tensor]:
    torch.manual_seed(2)
    network = build("secnet", TINY_NETWORK)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network, torch.rand(1, 3, 3, 8, 8), torch.rand(1, 3, 3, 32, 32)


@pytest.mark.parametrize(
    "part, reaches", [("final", "recurrent fusion flow"), ("first", "fusion flow"), ("flow", "flow")]
)
def test_which_parts_of_the_network_a_loss_teaches(part: str, reaches: str) -> None:
    network, low, truth = learning()
    getattr(secnet_losses(network(low), low, truth, network.config.offsets, SQUARES), part).backward()
    taught = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert taught == set(reaches.split())


def test_the_final_loss_moves_the_flow_only_through_the_first_result() -> None:
    """SECNet, III-A. With the first result held fixed, nothing of the final loss may reach the flow network."""
    network, low, truth = learning()
    fuse = network.fuse
    network.fuse = lambda *window: fuse(*window).detach()  # type: ignore[method-assign]
    secnet_losses(network(low), low, truth, network.config.offsets, SQUARES).final.backward()
    assert all(p.grad is None or not p.grad.any() for p in network.flow.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.recurrent.parameters())


@pytest.mark.parametrize("form", [{}, {"t1": 2, "t2": 2, "t3": 2, "detail_widths": [4, 4], "encoding": "fused",
                                       "aligned": False, "attention": True, "fusion_tail": 4}])  # fmt: skip
def test_pretraining_teaches_the_local_fusion_and_the_motion_alone(form: dict[str, Any]) -> None:
    torch.manual_seed(3)
    network = build("secnet", TINY_NETWORK | form)
    low, truth = torch.rand(1, 4, 3, 8, 8), torch.rand(1, 4, 3, 32, 32)
    output = network(low, local_only=True)
    assert torch.equal(output.results, output.firsts)
    torch.testing.assert_close(output.firsts, network(low).firsts, atol=0, rtol=0)
    secnet_losses(output, low, truth, network.config.offsets, SQUARES, pretraining=True).total.backward()
    taught = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert taught == {"fusion", "flow"}
    assert all(p.grad is not None and p.grad.any() for p in network.fusion.parameters())


def test_the_paper_form_cuts_the_recurrent_part_from_the_motion() -> None:
    torch.manual_seed(4)
    form = {"t2": 2, "t3": 2, "detail_widths": [4, 4], "encoding": "fused", "aligned": False, "local_fusion": False}
    network = build("secnet", TINY_NETWORK | form)
    low, truth = torch.rand(1, 3, 3, 8, 8), torch.rand(1, 3, 3, 32, 32)
    losses = secnet_losses(network(low), low, truth, network.config.offsets, SQUARES)
    losses.final.backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in network.flow.parameters())
    losses.flow.backward()
    assert any(p.grad is not None and p.grad.any() for p in network.flow.parameters())
