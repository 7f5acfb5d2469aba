"""Self-ensemble on a stream: the mean of the outputs for the clip and for its mirror image."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tests.support.tiny_networks import paper_network
from vidsr.engines.recurrent import RecurrentEngine, network_bytes_per_pixel
from vidsr.models.loading import multiply_adds_per_pixel
from vidsr.models.registry import build
from vidsr.nets.secnet.network import SECNet
from vidsr.types import Frame

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("two_threads")]

CPU = torch.device("cpu")


def twin(network: SECNet, mirrored: bool) -> SECNet:
    """The same weights with and without the option."""
    arguments = {name: getattr(network.config, name) for name in network.config.__dataclass_fields__}
    other = build("secnet", arguments | {"mirrored": mirrored})
    other.load_state_dict(network.state_dict())
    return other


def stream(network: SECNet, clip: Tensor) -> Tensor:
    engine = RecurrentEngine(network, "test", CPU, "fp32")
    state, results = engine.init_state(*clip.shape[-2:]), []
    for t, image in enumerate(clip):
        ready, state = engine.step(Frame(image, t, Fraction(1, 25), 1, t == 0), state)
        results += ready
    return torch.stack([frame.image for frame in results + engine.flush(state)])


@pytest.mark.parametrize("arguments", [{}, {"recurrent_fusion": False}])
def test_both_images_have_their_own_past(arguments: dict[str, bool]) -> None:
    network = paper_network(**arguments)
    clip = torch.rand(5, 3, 9, 14, generator=torch.Generator().manual_seed(1))
    plain, flipped = stream(twin(network, False), clip), stream(twin(network, False), clip.flip(-1)).flip(-1)
    assert (plain - flipped).abs().max() > 1e-3, "with a symmetric network this test would show nothing"
    mirrored = stream(twin(network, True), clip)
    torch.testing.assert_close(mirrored, (plain + flipped) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(stream(twin(network, True), clip.flip(-1)).flip(-1), mirrored, atol=1e-5, rtol=0)


def test_cost_estimates_double() -> None:
    plain, mirrored = (twin(paper_network(), value) for value in (False, True))
    assert multiply_adds_per_pixel(mirrored) == 2 * multiply_adds_per_pixel(plain)
    for precision in ("fp32", "bf16"):
        costs = [network_bytes_per_pixel(network.config, precision) for network in (plain, mirrored)]
        assert costs[1] == 2 * costs[0]
