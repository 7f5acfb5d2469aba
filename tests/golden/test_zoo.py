"""Other people's weights: read as plain tensors, recognized by spandrel, exported, and the graph computes the same."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from vidsr.cli import app
from vidsr.errors import ModelError, UsageError
from vidsr.models import zoo
from vidsr.models.cards import own_models_folder, read_card
from vidsr.models.image_graph import ImageGraph, load_graph

pytestmark = [
    pytest.mark.numeric,
    pytest.mark.filterwarnings("ignore:.*torch.meshgrid"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element"),
    pytest.mark.skipif(
        importlib.util.find_spec("spandrel") is None,
        reason="the extra zoo is not installed: pip install einops, pip install --no-deps spandrel",
    ),
]
# Sums of up to a few hundred products in float32, in another order: 2 ** -24 each, relative to the largest value.
TOLERANCE = 300 * 2**-24


def vidsr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without models."""
    for name in ("XDG_DATA_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "user"))
    return own_models_folder()


def of(name: str, **sizes: Any) -> nn.Module:
    """One of spandrel's networks with random weights."""
    zoo._spandrel()
    torch.manual_seed(0)
    kind = getattr(importlib.import_module(f"spandrel.architectures.{name}"), name)
    return kind(**sizes).eval().requires_grad_(False)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "ESRGAN x4": (lambda: of("ESRGAN", num_filters=8, num_blocks=1, scale=4), 4, "ESRGAN (8nf, 1nb)"),
    "compact x2": (lambda: of("Compact", num_feat=8, num_conv=2, upscale=2), 2, "RealESRGAN Compact (8nf, 2nc)"),
    "compact x1": (lambda: of("Compact", num_feat=8, num_conv=2, upscale=1), 1, "RealESRGAN Compact (8nf, 2nc)"),
    "SPAN x2": (lambda: of("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2), 2, "SPAN (8nf)"),
    "DAT x2": (
        lambda: of(
            "DAT", img_size=32, embed_dim=32, depth=[2], num_heads=[2], split_size=[4, 8], upscale=2,
            expansion_factor=1.0,
        ),
        2,
        "DAT (light",
    ),
}  # fmt: skip


def saved(path: Path, network: nn.Module, is_half: bool = False) -> Path:
    """The weights of a network as people publish them."""
    tensors = {name: value.half() if is_half else value for name, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    else:
        torch.save({"params_ema": tensors, "params": {}}, path)
    return path


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("ESRGAN x4", ".safetensors"),
        ("compact x2", ".pth"),
        ("compact x1", ".safetensors"),
        ("SPAN x2", ".pth"),
        ("DAT x2", ".pth"),
    ],
)
def test_the_graph_computes_what_the_network_does(name: str, ending: str, tmp_path: Path) -> None:
    make, scale, words = NETWORKS[name]
    network = make()
    converted = zoo.convert(saved(tmp_path / f"a{ending}", network, is_half="compact" in name))
    if "compact" in name:
        network = network.half().float()
    assert converted.network.startswith(words) and converted.scale == scale
    assert converted.parameters == sum(p.numel() for p in network.parameters()) and converted.multiply_adds > 100
    graph = ImageGraph(zoo.described(converted), converted.content, "a")
    sides = converted.fixed or graph.config.sides(37, 53)
    image = torch.from_numpy(np.random.default_rng(3).random((1, 3, *sides), dtype=np.float32))
    expected = network(image)
    assert expected.shape == (1, 3, scale * sides[0], scale * sides[1])
    assert (graph(image) - expected).abs().max() <= TOLERANCE * max(1.0, expected.abs().max().item())


def test_a_file_becomes_a_model_of_the_users(tmp_path: Path, own_folder: Path) -> None:
    source = saved(tmp_path / "4x_Some.pth", NETWORKS["ESRGAN x4"][0]())
    result = vidsr("models", "import", "some", source, "--licence", "CC-BY-4.0")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{own_folder / 'some.toml'}\n" and "--model some; license: CC-BY-4.0" in result.stderr
    assert sorted(path.name for path in own_folder.iterdir()) == ["some.golden.npz", "some.onnx", "some.toml"]
    table = tomllib.loads((own_folder / "some.toml").read_text())
    assert (table["origin"], table["scale"], table["network"]["network"]) == ("4x_Some.pth", 4, "ESRGAN (8nf, 1nb)")
    assert load_graph(read_card(own_folder / "some.toml")).config.minimum == 2
    assert "some: intact" in vidsr("models", "verify", "some").stderr


# ----------------------------------------------------------------------------------------------------------- refused


class Harmful:
    """What a pickle may do."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("harm",)


def weights() -> dict[str, Tensor]:
    return dict(NETWORKS["compact x2"][0]().state_dict())


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "code": (lambda: {"params": weights() | {"extra": Harmful()}}, "is not a PyTorch checkpoint of plain tensors"),
    "another network": (lambda: {"a.weight": torch.zeros(3, 3)}, "can be imported: ATD, "),
    "a tensor too few": (
        lambda: {k: v for k, v in weights().items() if k != "body.2.bias"},
        "do not fit their network",
    ),
    "not finite": (lambda: weights() | {"body.0.bias": torch.full((8,), torch.nan)}, "not finite"),
    "more than the file": (
        lambda: weights() | {"body.0.weight": torch.zeros(1).expand(10_000, 3, 3, 3)},
        "claims more values than the file holds",
    ),
    "gray": (lambda: of("Compact", num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2).state_dict(), "1 channels"),
    "no tensors": (lambda: {"params": {}}, "no named tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_such_model_is_refused(
    kind: str, tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    torch.save(make(), tmp_path / "a.pth")
    result = vidsr("models", "import", "a.pth")
    assert result.exit_code == 5 and message in " ".join(result.stderr.split()), result.stderr
    assert not own_folder.exists() and not (tmp_path / "harm").exists() and result.stdout == ""


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.txt", "a.ckpt"])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not a model" * 100)
    result = vidsr("models", "import", tmp_path / name)
    assert result.exit_code == 5 and result.stderr.count("error") == 1


def test_a_network_that_claims_more_than_its_file_is_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tensors = weights()
    tensors["body.300.weight"] = tensors.pop("body.4.weight")  # a network of 300 layers
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"more parameters here than the file holds|do not fit their network"):
        zoo.convert(tmp_path / "a.pth")


def test_a_network_that_the_exporter_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "a.pth", NETWORKS["compact x2"][0]())
    monkeypatch.setattr(zoo, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="cannot be exported to ONNX without a change of its results"):
        zoo.convert(source)


def test_without_spandrel_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "a.pth", NETWORKS["compact x2"][0]())
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UsageError, match="pip install --no-deps spandrel"):
        zoo.convert(source)


BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


def test_a_broken_torchvision_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN)
    program = (
        "import sys; from vidsr.models import zoo; found = zoo._spandrel(); "
        "print(len(found.MAIN_REGISTRY) > 20, [name for name in sys.modules if name.startswith('torchvision')])"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(zoo.__file__).parents[2])])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert result.stdout == "True []\n", result.stderr
