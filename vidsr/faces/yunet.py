"""YuNet's interface: a picture in, faces out, through ONNX Runtime. The scale of the picture is the caller's business.

Any file with this interface serves. Input "input": 1 x 3 x H x W, float32, BGR in 0..255, H and W multiples of 32.
Outputs for each stride s of 8, 16, 32, a row for each cell of the H/s x W/s grid, row by row: "cls_s" and "obj_s" (1),
whose geometric mean is the score; "bbox_s" (4), the middle from the cell's corner and the logarithm of the size;
"kps_s" (10), five points from the cell's corner; all in units of s. ONNX Runtime takes two thirds of the time of
cv2.FaceDetectorYN for the same file, which also writes warnings of its own to stderr.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import ModelError, VidsrError
from vidsr.faces.detections import LANDMARKS, Detections
from vidsr.runtime.onnx_session import start_session

STRIDES = (8, 16, 32)
MULTIPLE = 32
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 2 * LANDMARKS}
# More candidates than any picture has faces; without a limit a bad file could make suppression take for ever.
MOST_CANDIDATES = 2000


class Yunet:
    """A detector file, ready to run; without state. `size` is (height, width) if it takes no other, else None."""

    def __init__(self, path: Path, device: torch.device, threads: int) -> None:
        """Raises ModelError if the file is missing or has another interface, DeviceError if CUDA cannot be reached."""
        self.path = path
        self._session = _start_session(path, device, threads)
        self.size = self._check()

    def run(self, picture: NDArray[np.float32], least_score: float) -> Detections:
        """The faces in a picture, 3 x H x W, BGR in 0..255, sides multiples of 32; overlapping ones not yet thinned.

        Raises ModelError if the file gives what the interface does not allow.
        """
        return decode(self.outputs(picture), picture.shape[1], picture.shape[2], least_score)

    def outputs(self, picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """What the file gives for a picture, by name, as `run` wants it; raises ModelError as `run`."""
        try:
            values = self._session.run(None, {self._input: picture[None]})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelError(f"the face detector {self.path} fails to run: {error}") from error
        outputs = dict(zip(self._outputs, values, strict=True))
        height, width = picture.shape[1:]
        for name, columns in ((f"{kind}_{stride}", WIDTHS[kind]) for stride in STRIDES for kind in WIDTHS):
            stride = int(name.partition("_")[2])
            shape = (1, (height // stride) * (width // stride), columns)
            if outputs[name].shape != shape:
                raise ModelError(f"{self.path} is no YuNet detector: {name} is {outputs[name].shape}, not {shape}")
        return outputs

    def _check(self) -> tuple[int, int] | None:
        inputs = self._session.get_inputs()
        self._input = inputs[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        wanted = [f"{kind}_{stride}" for kind in WIDTHS for stride in STRIDES]
        missing = [name for name in wanted if name not in self._outputs]
        shape = inputs[0].shape
        if missing or len(inputs) != 1 or len(shape) != 4 or inputs[0].type != "tensor(float)":
            reason = f"it has no output {missing[0]}" if missing else "it does not take one picture"
            raise ModelError(f"{self.path} is no YuNet detector: {reason}")
        height, width = shape[2:]
        if not (isinstance(height, int) and isinstance(width, int)):
            return None
        if height % MULTIPLE or width % MULTIPLE:
            raise ModelError(f"{self.path} is no YuNet detector: {width}x{height} is not a multiple of {MULTIPLE}")
        return height, width


def decode(outputs: Mapping[str, NDArray[np.float32]], height: int, width: int, least_score: float) -> Detections:
    """The faces that YuNet's outputs for a picture of this size mean, in its pixels, with at least this score."""
    parts = []
    for stride in STRIDES:
        cls, obj, bbox, kps = (outputs[f"{kind}_{stride}"][0].astype(np.float64) for kind in WIDTHS)
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        chosen = np.flatnonzero(scores >= least_score)
        rows, columns = np.divmod(chosen, width // stride)
        corners = np.stack([columns, rows], axis=1).astype(np.float64)
        with np.errstate(over="ignore"):  # what overflows is dropped below
            sizes = np.exp(bbox[chosen, 2:])
        boxes = np.concatenate([corners + bbox[chosen, :2] - sizes / 2, sizes], axis=1) * stride
        landmarks = (corners[:, None] + kps[chosen].reshape(-1, LANDMARKS, 2)) * stride
        parts.append(Detections(boxes, landmarks, scores[chosen]))
    faces = Detections.join(parts)
    largest = 4.0 * max(height, width)
    numbers = np.concatenate([faces.boxes, faces.landmarks.reshape(len(faces), 2 * LANDMARKS)], axis=1)
    is_sane = np.isfinite(numbers).all(1) & (faces.boxes[:, 2:] <= largest).all(1) & (faces.boxes[:, 2:] > 0).all(1)
    sane = np.flatnonzero(is_sane)
    return faces.take(sane).ordered().take(np.arange(min(MOST_CANDIDATES, len(sane))))


def _start_session(path: Path, device: torch.device, threads: int) -> Any:
    if not path.is_file():
        raise ModelError(f"the face detector {path} does not exist; name a YuNet file (.onnx)")
    place = device if device.type == "cuda" else torch.device("cpu")
    try:
        return start_session(path, place, threads, remedy="use --device cpu for the face detector")
    except VidsrError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ModelError(f"{path} is no ONNX file that can be run: {error}") from error
