"""The multi-column head: combines the embeddings of a face track into one vector.

Xie & Zisserman, "Multicolumn Networks for Face Recognition" (BMVC 2018); dissertation, chapter 2. Each vector v_i has a
quality, from itself alone, and a content weight, from itself and the mean of all, weighted by quality:

    alpha_i = sigmoid(w . v_i + b)           V_m = sum alpha_i v_i / sum alpha_i
    beta_i = sigmoid(u . [v_i, V_m] + c)     V_d = sum alpha_i beta_i v_i / sum alpha_i beta_i

The vectors are unit vectors: embeddings minus the mean of all people, because what all faces have in common would make
all of them similar. That mean depends linearly on qualities of the image, such as its size: small or blurred faces of
different people have more in common. V_d is then multiplied by a matrix A, which makes directions small in which the
vectors of one person differ: A' A is the inverse of their covariance (within-class covariance normalization; Hatch,
Kajarekar & Stolcke, "Within-class covariance normalization for SVM-based speaker recognition", Interspeech 2006).

Heads are files of numbers in this package, one for each embedding that there is one for; the others use the plain mean
of unit vectors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidsr.errors import ModelError
from vidsr.faces.detections import Array
from vidsr.toml import fill, read_table

FOLDER = Path(__file__).resolve().parent / "embedding_heads"
WHITENING_UNITS = 1000


@dataclass(frozen=True, slots=True)
class Head:
    """The weights of a head for embeddings of N numbers: `mean` and `quality` (w) N, `content` (u) 2 N.

    `biases` are b and c. `whitening` (A) is N x N; None leaves vectors as they are. Behind the N numbers of an
    embedding are K qualities of its image; `slopes`, K x N, are multiplied by them and added to the mean. They are
    clipped to `limits`, K x 2, the least and the most.

    Two sets of images show one person if the cosine of their combined vectors is at least `threshold`.
    """

    mean: Array
    quality: Array
    content: Array
    biases: tuple[float, float]
    threshold: float
    slopes: Array
    limits: Array
    whitening: Array | None = None

    def normalized(self, embeddings: Array) -> Array:
        """Embeddings, n x (N + K), as unit vectors, n x N, around the mean of all people for their qualities."""
        size = len(self.mean)
        qualities = embeddings[:, size:].clip(*self.limits.T)
        centered = embeddings[:, :size] - self.mean - qualities @ self.slopes
        lengths = np.linalg.norm(centered, axis=1, keepdims=True)
        units: Array = centered / np.maximum(lengths, np.finfo(float).tiny)
        return units

    def weights(self, embeddings: Array) -> Array:
        """The weight of each of the embeddings, n x (N + K), in the combined vector; the weights sum to 1."""
        units = self.normalized(embeddings)
        alpha = _sigmoid(units @ self.quality + self.biases[0])
        middle = alpha @ units / alpha.sum()
        pairs = np.concatenate([units, np.broadcast_to(middle, units.shape)], axis=1)
        products = alpha * _sigmoid(pairs @ self.content + self.biases[1])
        weights: Array = products / products.sum()
        return weights

    def combined(self, embeddings: Array) -> Array:
        """The unit vector, N, of a set of images from their embeddings, n x (N + K), n at least 1."""
        total = self.weights(embeddings) @ self.normalized(embeddings)
        if self.whitening is not None:
            total = self.whitening @ total
        unit: Array = total / max(float(np.linalg.norm(total)), np.finfo(float).tiny)
        return unit


def plain_head(length: int, threshold: float) -> Head:
    """A head without qualities that gives all embeddings the same weight and leaves their directions as they are."""
    none = np.zeros((0, length)), np.zeros((0, 2))
    return Head(np.zeros(length), np.zeros(length), np.zeros(2 * length), (0.0, 0.0), threshold, *none)


@dataclass(frozen=True, slots=True)
class HeadCard:
    """The content of a head's file: its numbers and their provenance; `metrics_command` measures it.

    `sha256` is that of the numbers, as `digest` computes it. `slopes` and `limits` are row after row. `whitening` has
    the rows of a triangular matrix, from the diagonal on, in 1 / WHITENING_UNITS.
    """

    name: str
    summary: str
    licence: str
    date: str
    recipe: str
    data: str
    data_licences: str
    metrics_command: str
    threshold: float
    sha256: str
    biases: tuple[float, ...]
    mean: tuple[float, ...]
    slopes: tuple[float, ...]
    limits: tuple[float, ...]
    quality: tuple[float, ...]
    content: tuple[float, ...]
    whitening: tuple[int, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of the threshold and all weights, as written in decimal."""
        means = (*self.mean, *self.slopes, *self.limits)
        numbers = (self.threshold, *self.biases, *means, *self.quality, *self.content, *self.whitening)
        return hashlib.sha256(" ".join(map(repr, numbers)).encode()).hexdigest()


def shipped_head(name: str) -> Head:
    """The head in this package for an embedding. Raises ModelError if its file is damaged."""
    return read_head(FOLDER / f"{name}.toml")


def read_head(path: Path) -> Head:
    """Reads the file of a head. Raises ModelError if it is damaged."""
    card = fill(HeadCard, read_table(path, "head", ModelError), f"the head {path}", ModelError, {})
    length, count = len(card.mean), len(card.limits) // 2
    lengths = len(card.biases), len(card.quality), len(card.content), len(card.slopes), len(card.limits)
    wanted = 2, length, 2 * length, count * length, 2 * count
    is_whole = lengths == wanted and len(card.whitening) == length * (length + 1) // 2
    if card.digest != card.sha256 or not is_whole:
        raise ModelError(f"the head {path} does not hold the numbers that it was written with: install vidsr again")
    whitening = np.zeros((length, length))
    whitening[np.triu_indices(length)] = np.array(card.whitening) / WHITENING_UNITS
    biases = card.biases[0], card.biases[1]
    slopes, limits = np.reshape(card.slopes, (count, length)), np.reshape(card.limits, (count, 2))
    columns = np.array(card.quality), np.array(card.content)
    return Head(np.array(card.mean), *columns, biases, card.threshold, slopes, limits, whitening)


def _sigmoid(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return result
