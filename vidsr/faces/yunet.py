"""Face detectors with YuNet's interface, run by ONNX Runtime: an image in, faces out. The caller scales the image.

Any file with this interface works. Input "input": 1 x 3 x H x W, float32, BGR in 0..255, H and W multiples of 32.
Outputs for each stride s of 8, 16 and 32 have one row per cell of the H/s x W/s grid, in row-major order: "cls_s" and
"obj_s" (1 column), whose geometric mean is the score; "bbox_s" (4), the center relative to the cell's corner and the
logarithm of the size; "kps_s" (10), five points relative to the cell's corner; all in units of s. For the same file
ONNX Runtime takes two thirds of the time of cv2.FaceDetectorYN, which also writes its own warnings to stderr.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import ModelError
from vidsr.faces.detections import LANDMARKS, Detections
from vidsr.faces.onnx_file import OnnxFile

STRIDES = (8, 16, 32)
MULTIPLE = 32
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 2 * LANDMARKS}
# Pixels of a fixed input, at most: 4096 x 4096. Detectors search smaller images.
MAX_INPUT = 1 << 24
# More than the faces of any image; without a limit, non-maximum suppression could take forever with a bad file.
MAX_CANDIDATES = 2000


class Yunet:
    """A loaded detector file; stateless. `size` is (height, width) if the input has a fixed size, else None."""

    def __init__(self, path: Path, device: torch.device, threads: int) -> None:
        """Raises ModelError if the file is missing or has another interface, DeviceError if CUDA is unavailable."""
        self.path = path
        if not path.is_file():
            raise ModelError(f"the face detector {path} does not exist; name a YuNet file (.onnx)")
        self._file = OnnxFile(path, "face detector", "a YuNet file", device, threads)
        self.size = self._check()

    def run(self, image: NDArray[np.float32], min_score: float) -> Detections:
        """The faces in an image, 3 x H x W, BGR in 0..255, sides multiples of 32, before non-maximum suppression.

        Raises ModelError if the outputs violate the interface.
        """
        return decode(self.outputs(image), image.shape[1], image.shape[2], min_score)

    def outputs(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The raw outputs for an image, by name; arguments and errors as for `run`."""
        values = self._file.run({self._input: image[None]})
        outputs = dict(zip(self._outputs, values, strict=True))
        height, width = image.shape[1:]
        for name, columns in ((f"{kind}_{stride}", WIDTHS[kind]) for stride in STRIDES for kind in WIDTHS):
            stride = int(name.partition("_")[2])
            shape = (1, (height // stride) * (width // stride), columns)
            if outputs[name].shape != shape:
                raise ModelError(f"{self.path} is not a YuNet detector: {name} is {outputs[name].shape}, not {shape}")
        return outputs

    def _check(self) -> tuple[int, int] | None:
        inputs = self._file.inputs
        self._input = inputs[0].name
        self._outputs = [output.name for output in self._file.outputs]
        wanted = [f"{kind}_{stride}" for kind in WIDTHS for stride in STRIDES]
        missing = [name for name in wanted if name not in self._outputs]
        shape = inputs[0].shape
        if missing or len(inputs) != 1 or len(shape) != 4 or inputs[0].type != "tensor(float)":
            reason = f"it has no output {missing[0]}" if missing else "it does not take exactly one image"
            raise ModelError(f"{self.path} is not a YuNet detector: {reason}")
        if (isinstance(shape[0], int) and shape[0] != 1) or (isinstance(shape[1], int) and shape[1] != 3):
            raise ModelError(f"{self.path} is not a YuNet detector: its input is not 1 x 3 x H x W")
        height, width = shape[2:]
        if isinstance(height, int) and isinstance(width, int) and not 0 < height * width <= MAX_INPUT:
            raise ModelError(f"{self.path} cannot be used: an input of {width}x{height} is beyond reason")
        if not (isinstance(height, int) and isinstance(width, int)):
            return None
        if height % MULTIPLE or width % MULTIPLE:
            raise ModelError(f"{self.path} is not a YuNet detector: {width}x{height} is not a multiple of {MULTIPLE}")
        return height, width


def decode(outputs: Mapping[str, NDArray[np.float32]], height: int, width: int, min_score: float) -> Detections:
    """Decodes YuNet's outputs for an image of this size into faces with at least `min_score`, in its pixels."""
    parts = []
    for stride in STRIDES:
        cls, obj, bbox, kps = (outputs[f"{kind}_{stride}"][0].astype(np.float64) for kind in WIDTHS)
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        chosen = np.flatnonzero(scores >= min_score)
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
    return faces.take(sane).ordered().take(np.arange(min(MAX_CANDIDATES, len(sane))))
