"""Writer of a model's three files: weights or graph, stored example, and card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import save

from vidsr.errors import OutputError
from vidsr.files import atomic_write
from vidsr.models.cards import sha256_of
from vidsr.models.image_graph import ImageGraph
from vidsr.models.loading import run_golden
from vidsr.nets.base import Network

GOLDEN_SHAPE = (4, 3, 16, 12)


def write_model(
    folder: Path, head: Mapping[str, str], network: Network, weights_type: torch.dtype, example_type: DTypeLike,
    facts: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Writes NAME.safetensors, NAME.golden.npz and, last, NAME.toml into `folder`; returns the card's path.

    `head` holds name, summary and architecture. `facts` holds the card's other fields, except the network's arguments
    and the fields computed here (files, sizes, hashes, scale, look-ahead). `network` is in float32. `weights_type` and
    `example_type` are the stored types of the weights and of the example's output.

    Raises OutputError if a file cannot be written.
    """
    tensors = {key: value.to(weights_type).contiguous() for key, value in network.state_dict().items()}
    clip = _golden_clip()
    output = run_golden(network.eval(), clip).astype(example_type)
    known = {"scale": network.config.scale, "lookahead": network.config.lookahead, **facts}
    return _write_files(
        folder, head, "safetensors", lambda beside: beside.write_bytes(save(tensors)),
        lambda _: {"input": clip, "output": output}, known, dataclasses.asdict(network.config),
    )  # fmt: skip


def write_graph(folder: Path, head: Mapping[str, str], network: ImageGraph, facts: Mapping[str, Any]) -> Path:
    """Writes NAME.onnx, NAME.golden.npz and, last, NAME.toml into `folder`; returns the card's path.

    `head` and `facts` are as for `write_model`. Raises OutputError if a file cannot be written, ModelError if the graph
    cannot be run.
    """
    clip = _golden_clip()
    output = run_golden(network, clip)
    known = {"scale": network.config.scale, "lookahead": network.config.lookahead, **facts}
    return _write_files(
        folder, head, "onnx", lambda beside: beside.write_bytes(network.content),
        lambda _: {"input": clip, "output": output}, known, dataclasses.asdict(network.config),
    )  # fmt: skip


def write_detector(
    folder: Path, head: Mapping[str, str], graph: bytes, network: Mapping[str, Any], facts: Mapping[str, Any],
    run: Callable[[Path, NDArray[np.float32]], Mapping[str, NDArray[np.float32]]],
) -> Path:  # fmt: skip
    """Writes NAME.onnx, NAME.golden.npz and, last, NAME.toml into `folder`; returns the card's path.

    `head` and `facts` are as for `write_model`. `graph` is the ONNX model of a face detector, `network` holds its
    arguments. `run` returns the outputs of a detector's file for an image, 3 x H x W, BGR in 0..255.

    Raises OutputError if a file cannot be written.
    """
    image = _golden_image()

    def example(model: Path) -> dict[str, Any]:
        return {"input": image, **run(model, image.astype(np.float32))}

    return _write_files(folder, head, "onnx", lambda beside: beside.write_bytes(graph), example, facts, dict(network))


def files_of(folder: Path, name: str, ending: str) -> tuple[Path, Path, Path]:
    """The paths of a model's files: weights or graph, stored example, and card."""
    return folder / f"{name}.{ending}", folder / f"{name}.golden.npz", folder / f"{name}.toml"


def _write_files(
    folder: Path, head: Mapping[str, str], ending: str, save: Callable[[Path], object],
    example: Callable[[Path], Mapping[str, Any]], facts: Mapping[str, Any], network: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Writes the three files, the card last. `save` writes the model file, and `example` returns its stored arrays."""
    name = head["name"]
    model, golden, path = files_of(folder, name, ending)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(model, save)
        arrays = example(model)
        _replace(golden, lambda beside: np.savez_compressed(beside, **arrays))
        card = {
            **head,
            "file": model.name,
            "bytes": model.stat().st_size,
            "sha256": sha256_of(model),
            "golden": golden.name,
            "golden_sha256": sha256_of(golden),
            **facts,
        }
        metrics = {"metrics": card.pop("metrics")} if "metrics" in card else {}  # last, for benchmarks to fill in
        text = tomli_w.dumps({**card, "network": network, **metrics})
        _replace(path, lambda beside: beside.write_text(text, encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write the model '{name}' into {folder}: {error}") from error
    return path


def _golden_image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blocks of color, 3 x H x W, with contrast at every stride of the detector."""
    coarse = np.random.default_rng(7).integers(0, 256, (3, 8, 12)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def _golden_clip() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A moving block pattern, T x 3 x h x w, so that motion estimation matters."""
    coarse = np.random.default_rng(7).integers(0, 256, (GOLDEN_SHAPE[0], 3, 4, 3)).astype(np.uint8)
    clip = coarse.repeat(4, axis=2).repeat(4, axis=3)
    return np.stack([np.roll(clip[0], shift, axis=2) for shift in range(GOLDEN_SHAPE[0])])


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` write into a hidden file beside the target and renames it; a failure leaves nothing behind."""
    with atomic_write(target, overwrite=True) as hidden:
        write(hidden)
        hidden.chmod(0o644)
