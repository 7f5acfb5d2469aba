"""Training that starts from a narrower or a deeper network's weights: the new one first computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.tiny_networks import slowmo_network
from tests.support.tiny_training_data import TINY_NETWORK
from vidsr.errors import ModelError
from vidsr.models.registry import build
from vidsr.nets.secnet.network import SECNet
from vidsr.train.checkpoint import save_checkpoint
from vidsr.train.initialization import start_from

PAPER = {
    "detail_widths": [4, 6], "fusion_tail": 4, "encoding": "fused", "t3": 2, "aligned": False
}  # fmt: skip
CLIP = torch.rand(1, 5, 3, 9, 12, generator=torch.Generator().manual_seed(5))


def shaken(seed: int = 0, **arguments: Any) -> SECNet:
    torch.manual_seed(seed)
    network = build("secnet", TINY_NETWORK | arguments).requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    return network


def weights_of(network: SECNet, path: Path) -> Path:
    save_file(network.state_dict(), path)
    return path


def started(path: Path, **arguments: Any) -> SECNet:
    """Another network, whose own weights must not matter, with the weights of `path`."""
    network = shaken(9, **arguments)
    start_from(network, path)
    return network


def results(network: SECNet) -> Tensor:
    with torch.no_grad():
        return network(CLIP).results


@pytest.mark.parametrize("form", [{}, PAPER], ids=["narrow", "paper"])
@pytest.mark.parametrize("wider", [{}, {"t1": 2}, {"t1": 3}, {"t2": 2}, {"t1": 2, "t2": 3}], ids=str)
def test_a_wider_window_and_more_past_results_change_nothing_at_first(
    tmp_path: Path, form: dict[str, Any], wider: dict[str, Any]
) -> None:
    narrow = shaken(**form)
    network = started(weights_of(narrow, tmp_path / "narrow.safetensors"), **form, **wider)
    torch.testing.assert_close(results(network), results(narrow), atol=1e-5, rtol=0)
    assert (results(shaken(9, **form, **wider)) - results(narrow)).abs().max() > 0.01


@pytest.mark.parametrize("form", [{}, PAPER], ids=["narrow", "paper"])
def test_attention_starts_open(tmp_path: Path, form: dict[str, Any]) -> None:
    """The fresh map is about sigmoid(3) = 0.953 everywhere, so residuals lose at most a twentieth of their size."""
    narrow = shaken(**form)
    torch.manual_seed(1)
    network = build("secnet", TINY_NETWORK | form | {"attention": True, "t1": 2})
    start_from(network, weights_of(narrow, tmp_path / "narrow.safetensors"))
    apart = (results(network) - results(narrow)).abs()
    size = (results(narrow) - results(build("secnet", TINY_NETWORK | form))).abs().mean()
    assert 0 < apart.mean() < 0.1 * size
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("attention.excite.bias"):
                parameter.fill_(50.0)
    torch.testing.assert_close(results(network), results(narrow), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "row, option, blocks, kept",
    [
        ("recurrent.decoder", "decoder_blocks", (4, 2), (1, 3)),
        ("recurrent.decoder", "decoder_blocks", (4, 3), (0, 1, 3)),
        ("recurrent.encoder", "encoder_blocks", (3, 1), (2,)),
        ("fusion.body", "fusion_blocks", (12, 3), (3, 7, 11)),
    ],
)
def test_fewer_blocks_take_some_of_the_deeper_networks(
    tmp_path: Path, row: str, option: str, blocks: tuple[int, int], kept: tuple[int, ...]
) -> None:
    """Without the blocks that are left out, which then add nothing, the deeper network computes the same."""
    old, new = blocks
    deep = shaken(**{option: old})
    for index, block in enumerate(deep.get_submodule(row).children()):
        if index not in kept:
            last = block.get_submodule("conv2")
            last.load_state_dict({name: torch.zeros_like(value) for name, value in last.state_dict().items()})
    network = started(weights_of(deep, tmp_path / "deep.safetensors"), **{option: new})
    torch.testing.assert_close(results(network), results(deep), atol=1e-5, rtol=0)


def test_a_zsm_network_with_fewer_blocks_takes_some_too(tmp_path: Path) -> None:
    deep = slowmo_network("fast", back_blocks=6)
    for name, value in deep.recon_trunk[4].conv2.state_dict().items():
        deep.recon_trunk[4].conv2.load_state_dict({name: torch.zeros_like(value)}, strict=False)
    file = tmp_path / "deep.safetensors"
    save_file(deep.state_dict(), file)
    network = slowmo_network("fast", back_blocks=5)
    start_from(network, file)
    with torch.no_grad():
        torch.testing.assert_close(network(CLIP), deep(CLIP), atol=1e-5, rtol=0)


def test_the_new_weights_learn(tmp_path: Path) -> None:
    network = build("secnet", TINY_NETWORK | {"t1": 2, "t2": 2, "attention": True})
    start_from(network, weights_of(shaken(), tmp_path / "narrow.safetensors"))
    network(CLIP).results.square().sum().backward()
    assert network.fusion is not None and network.recurrent is not None
    window, past = network.fusion.head.weight, network.recurrent.head.weight
    assert not window[:, [0, 1, 2, -3, -2, -1]].any() and not past[:, 96:].any()
    assert window.grad is not None and window.grad[:, :3].any() and window.grad[:, -3:].any()
    assert past.grad is not None and past.grad[:, 96:].any()


def test_half_precision_files_and_checkpoints(tmp_path: Path) -> None:
    source = shaken()
    save_file({name: value.half() for name, value in source.state_dict().items()}, tmp_path / "half.safetensors")
    other = {name: value + 1 for name, value in source.state_dict().items()}
    save_checkpoint(tmp_path / "a.pt", {"recipe": {}, "network": other, "average": source.state_dict()})
    for path, exact in ((tmp_path / "half.safetensors", False), (tmp_path / "a.pt", True)):
        network = started(path, t1=2)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        torch.testing.assert_close(results(network), results(source), atol=1e-5 if exact else 0.02, rtol=0)


@pytest.mark.parametrize(
    "source, target, reason",
    [
        ({"fusion_width": 8}, {}, r"is \(.*\) instead of \(.*\)"),
        ({"recurrent_width": 8}, {}, r"is \(.*\) instead of \(.*\)"),
        ({"t1": 2}, {}, r"'fusion.head.weight' is \(6, 15, 3, 3\) instead of \(6, 9, 3, 3\)"),
        ({"t2": 2}, {}, r"'recurrent.head.weight' is \(5, 144, 3, 3\) instead of \(5, 96, 3, 3\)"),
        ({}, {"fusion_blocks": 2}, "'fusion.body.1.conv1.bias' is not in both"),
        ({"attention": True}, {}, "attention.* is not in both"),
        ({"recurrent_fusion": False}, {}, "'recurrent.* is not in both"),
        ({"local_fusion": False}, {}, "'fusion.* is not in both"),
        ({}, PAPER, "is not in both"),
        (PAPER, PAPER | {"t3": 0, "encoding": "one-way"}, "is not in both"),
        (PAPER, PAPER | {"encoding": "cascaded"}, r"'recurrent.encoding.forward_cell.gates.weight' is"),
        (PAPER, PAPER | {"detail_widths": [4, 8]}, r"is \(.*\) instead of \(.*\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, source: dict[str, Any], target: dict[str, Any], reason: str
) -> None:
    path = weights_of(shaken(**source), tmp_path / "other.safetensors")
    network = shaken(9, **target)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError, match=rf"other\.safetensors do not fit the network of the recipe: .*{reason}"):
        start_from(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
