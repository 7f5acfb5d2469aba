"""ONNX files that a user names: each kind is checked, and errors of ONNX Runtime translated, in the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.sface_files import write_sface
from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.errors import DeviceError, ModelError
from vidsr.faces import onnx_file
from vidsr.faces.alignment import Image
from vidsr.faces.embedding import SFACE_POINTS, SFACE_SIDE, SFace
from vidsr.faces.yunet import Yunet

CPU = torch.device("cpu")


def detect(detector: Yunet) -> Any:
    return detector.outputs(np.zeros((3, 32, 32), np.float32))


def embed(embedding: SFace) -> Any:
    image: Image = np.zeros((SFACE_SIDE, SFACE_SIDE, 3), np.uint8)
    return embedding.embed(image, SFACE_POINTS)


def write_blobs(path: Path) -> Path:
    return write_yunet(path, blob_finder())


KINDS = pytest.mark.parametrize(
    ("write", "load", "use", "kind", "other"),
    [
        (write_blobs, Yunet, detect, "face detector", "a YuNet file"),
        (write_sface, SFace, embed, "face embedding", "a smaller one"),
    ],
    ids=["detector", "embedding"],
)
Write, Load, Use = Callable[[Path], Path], Callable[..., Any], Callable[[Any], Any]


@KINDS
def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, load: Load, use: Use, kind: str, other: str
) -> None:
    path = write(tmp_path / "a.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "LARGEST_MODEL_FILE", path.stat().st_size - 1)
        patch.setattr(onnx_file, "start_session", None)
        with pytest.raises(ModelError, match=rf"the {kind} .*a\.onnx has more than 0 MB: name {other}$"):
            load(path, CPU, 1)
    monkeypatch.setattr(onnx_file, "LARGEST_MODEL_FILE", path.stat().st_size)
    use(load(path, CPU, 1))


class Broken:
    """A session whose every run fails in this way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: Any) -> Any:
        raise self.error


@KINDS
def test_a_failed_run_names_the_file(tmp_path: Path, write: Write, load: Load, use: Use, kind: str, other: str) -> None:
    loaded = load(write(tmp_path / "a.onnx"), CPU, 1)
    use(loaded)
    loaded._file._session = Broken(RuntimeError("Non-zero status code"))
    with pytest.raises(ModelError, match=rf"the {kind} .*a\.onnx fails to run: Non-zero status code"):
        use(loaded)
    loaded._file._session = Broken(MemoryError())
    with pytest.raises(DeviceError, match="not enough memory"):
        use(loaded)
