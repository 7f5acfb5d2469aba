"""An ONNX file that the user may name, of a face detector or an embedding, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import ModelError, VidsrError
from vidsr.models.cards import LARGEST_MODEL_FILE
from vidsr.runtime.memory import shortage
from vidsr.runtime.onnx_session import start_session


class OnnxFile:
    """A loaded file. `inputs` and `outputs` are ONNX Runtime's descriptions, with name, shape and type."""

    def __init__(self, path: Path, kind: str, other: str, device: torch.device, threads: int) -> None:
        """Loads a file of this kind, such as "face detector"; `other` is what to name instead of a file too large.

        Raises ModelError for a file too large, or that ONNX Runtime cannot run; DeviceError if CUDA is unavailable.
        """
        self._words = f"the {kind} {path}"
        if path.stat().st_size > LARGEST_MODEL_FILE:
            raise ModelError(f"{self._words} has more than {LARGEST_MODEL_FILE >> 20} MB: name {other}")
        place = device if device.type == "cuda" else torch.device("cpu")
        try:
            self._session = start_session(path, place, threads, remedy=f"use --device cpu for the {kind}")
        except VidsrError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no base class
            if lack := shortage(error):
                raise lack from error
            raise ModelError(f"{path} is not an ONNX file that can be run: {error}") from error
        self.inputs: list[Any] = self._session.get_inputs()
        self.outputs: list[Any] = self._session.get_outputs()

    def run(self, given: Mapping[str, NDArray[np.float32]]) -> list[Any]:
        """The outputs, in their order, for inputs by name. Raises ModelError, or DeviceError if memory runs out."""
        try:
            return list(self._session.run(None, dict(given)))
        except Exception as error:  # ONNX Runtime's errors share no base class
            if lack := shortage(error):
                raise lack from error
            raise ModelError(f"{self._words} fails to run: {error}") from error
