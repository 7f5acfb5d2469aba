"""Model cards, examples, weights and detectors from strangers: exit code 5 within a second, without much memory."""

from __future__ import annotations

import io
import pickle
import re
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.config import ComputeConfig
from vidsr.engines.select import build_engine, select
from vidsr.errors import ModelError
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import ModelCard, find_card, models_folder, read_card, sha256_of
from vidsr.models.loading import describe, load_network, verify

CPU = torch.device("cpu")
# Processor time; a second is promised, and the modules are loaded already.
SECONDS = 1.0
MEGABYTES = 500


@pytest.fixture
def card(tmp_path: Path) -> Path:
    for name in ("secnet-fast.toml", "secnet-fast.safetensors", "secnet-fast.golden.npz"):
        shutil.copy(models_folder() / name, tmp_path)
    return tmp_path / "secnet-fast.toml"


def edit(card: Path, pattern: str, line: str) -> Path:
    """Replaces the line that begins with the pattern."""
    text, count = re.subn(f"(?m)^{pattern}.*$", lambda _: line, card.read_text(), count=1)
    assert count == 1, pattern
    card.write_text(text)
    return card


def stated_again(card: Path) -> Path:
    """Sizes and hashes of the card become those of its present files."""
    files = card.parent / "secnet-fast.safetensors", card.parent / "secnet-fast.golden.npz"
    edit(card, "bytes = ", f"bytes = {files[0].stat().st_size}")
    edit(card, "sha256 = ", f'sha256 = "{sha256_of(files[0])}"')
    return edit(card, "golden_sha256 = ", f'golden_sha256 = "{sha256_of(files[1])}"')


def refused(action: Callable[[], object]) -> str:
    """The message of the ModelError that the action ends with, in little time and memory."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError) as caught:
        action()
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
    message = str(caught.value)
    assert len(message) < 1000 and "\n" not in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 30_000,
        "a = " + "[" * 50 + "]" * 50,
        "a = " + "{b = " * 30_000,
        "a." * 30_000 + "b = 1",
        "[" + "a." * 30_000 + "b]",
        "a = " + "9" * 5000,
        "a = " + "9" * 4000,
        f"a = {2**63}",
        f'a = "{"x" * 20_000}"',
        f'{"x" * 20_000} = "a"',
        "# " + "x" * (1 << 20),
        "a = '\udcff'",
        "\0",
    ],
    ids=lambda text: f"{text[:12]} of {len(text)}",
)
def test_a_card_that_is_nested_endless_or_huge_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert refused(lambda: read_card(path)).startswith(f"the model card {path} is ")


def test_a_card_that_never_ends_is_refused() -> None:
    assert "regular file" in refused(lambda: read_card(Path("/dev/zero")))


@pytest.mark.parametrize(
    ("pattern", "line", "reason"),
    [
        ("fusion_blocks = ", "fusion_blocks = 1000000000", "fusion_blocks"),
        ("decoder_blocks = ", "decoder_blocks = 513", "decoder_blocks"),
        ("recurrent_width = ", "recurrent_width = 9223372036854775807", "recurrent_width"),
        ("flow_levels = ", "flow_levels = 500", "flow_levels"),
        ("flow_width = ", "flow_width = -5", "1 or more"),
        ("flow_width = ", f"detail_widths = {[2] * 100}", "detail_widths"),
        ("scale = ", "scale = 2", "scale"),
        ("lookahead = ", "lookahead = 7", "lookahead"),
        ("architecture = ", 'architecture = "zsm"', "unknown key"),
        ("architecture = ", f'architecture = "{"x" * 5000}"', "unknown architecture"),
        ("name = ", f'name = "{"x" * 5000}"', "name"),
        ("name = ", 'name = ""', "name"),
        ("bytes = ", "bytes = 9223372036854775807", "bytes"),
        ("file = ", 'file = "../secnet-fast.safetensors"', "beside the card"),
        ("file = ", 'file = "/etc/hostname"', "beside the card"),
        ("file = ", 'file = "a\\\\b"', "beside the card"),
        ("file = ", 'file = "."', "beside the card"),
        ("golden = ", 'golden = "sub/secnet-fast.golden.npz"', "beside the card"),
        ("golden = ", 'golden = "\\u0000"', "beside the card"),
    ],
    ids=lambda value: value[:40],
)
def test_a_card_with_absurd_or_contradicting_fields_is_refused(
    card: Path, pattern: str, line: str, reason: str
) -> None:
    edit(card, pattern, line)
    assert reason in refused(lambda: load_network(read_card(card)))
    if reason != "bytes":  # these do not read the weights
        refused(lambda: describe(str(card)))


def test_a_contradiction_is_found_before_the_weights_are_read(card: Path) -> None:
    edit(card, "lookahead = ", "lookahead = 7")
    assert "lookahead" in refused(lambda: select(ComputeConfig(model=str(card)), "upscale", 64, 64))


def test_a_network_that_is_too_large_for_memory_is_refused(card: Path) -> None:
    for size in ("fusion_width", "recurrent_width", "decoder_blocks", "fusion_blocks"):
        edit(card, f"{size} = ", f"{size} = 512")
    assert "parameters" in refused(lambda: load_network(read_card(card)))
    assert "parameters" in refused(lambda: describe(str(card)))


def bad_example(path: Path, kind: str) -> None:
    clip, output = np.zeros((4, 3, 16, 12), np.uint8), np.zeros((4, 3, 64, 48), np.float16)
    arrays: dict[str, Any] = {
        "not finite": {"input": clip, "output": np.full_like(output, np.nan)},
        "other shape": {"input": clip, "output": output[:2]},
        "no output": {"input": clip, "result": output},
        "no input": {"output": output},
        "flat": {"input": clip.ravel(), "output": output},
        "long": {"input": np.zeros((400, 3, 16, 12), np.uint8), "output": output},
        "empty": {"input": clip[:0], "output": output},
        "objects": {"input": clip, "output": np.array([{}, []], dtype=object)},
        "text": {"input": clip, "output": np.array(["a"])},
        "bomb": {"input": clip, "output": np.zeros((1 << 25,), np.uint8)},
    }
    if kind in arrays:
        np.savez_compressed(path, **arrays[kind])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(np.zeros(3)))
    elif kind == "npy":
        buffer = io.BytesIO()
        np.save(buffer, clip)
        path.write_bytes(buffer.getvalue())
    elif kind == "claims":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("input", "output"):
                buffer = io.BytesIO()
                header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)}
                np.lib.format.write_array_header_1_0(buffer, header)
                archive.writestr(f"{name}.npy", buffer.getvalue())
    else:
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "kind",
    [
        "not finite",
        "other shape",
        "no output",
        "no input",
        "flat",
        "long",
        "empty",
        "objects",
        "text",
        "bomb",
        "pickle",
        "npy",
        "claims",
        "truncated",
    ],
)
def test_a_misshapen_example_is_refused(card: Path, kind: str) -> None:
    bad_example(card.parent / "secnet-fast.golden.npz", kind)
    message = refused(lambda: verify(read_card(stated_again(card))))
    assert "example" in message


@pytest.mark.parametrize("kind", ["nan", "infinite", "integers", "bool", "extra", "missing", "shape", "pickle", "huge"])
def test_weights_of_another_kind_are_refused(card: Path, kind: str) -> None:
    path = card.parent / "secnet-fast.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    first = tensors[name].float()
    changed: dict[str, torch.Tensor] = {
        "nan": torch.full_like(first, torch.nan),
        "infinite": torch.full_like(first, torch.inf),
        "integers": first.to(torch.int32),
        "bool": first.bool(),
        "shape": first[None].contiguous(),
        "huge": torch.zeros(1 << 20),
    }
    if kind == "missing":
        del tensors[name]
    elif kind == "extra":
        tensors["x" * 5000] = torch.zeros(1)
    elif kind in changed:
        tensors[name] = changed[kind]
    save_file(tensors, path)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(tensors))
    message = refused(lambda: load_network(read_card(stated_again(card))))
    assert str(path) in message


@pytest.mark.parametrize("size", [(1 << 30, 32), (32, 1 << 30), (32 << 10, 32 << 10), (0, 32), (33, 32)], ids=str)
def test_a_detector_with_an_absurd_fixed_input_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_yunet(tmp_path / "a.onnx", blob_finder(), size)
    assert str(path) in refused(lambda: Yunet(path, CPU, 1))


def test_intact_files_pass_the_same_checks(card: Path) -> None:
    found = read_card(stated_again(card))
    assert isinstance(found, ModelCard) and verify(found) < 1e-3
    assert describe(str(card))["parameters"]["total"] == describe("secnet-fast")["parameters"]["total"]
    build_engine(select(ComputeConfig(model=str(card)), "upscale", 64, 64))
    assert verify(find_card("face-detector")) < 1e-3
