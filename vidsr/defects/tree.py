"""A decision tree, read from a readable text and evaluated with NumPy; scikit-learn is only needed to train one.

A tree is written in preorder, one node a line, indented by two spaces a level. A question is followed by the part of
the tree for "yes" and then that for "no"; a leaf is the probability of a defect:

    contrast <= 14.5
      0.02
      match <= 0.3
        0.11
        0.94
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidsr.errors import ModelError
from vidsr.toml import fill, read_table

LEAF = -1
# Deeper trees would not be readable.
MAX_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes in preorder, the root first. A sample goes to `below` if its feature is <= the threshold, else to `above`.

    At a leaf, `feature` is LEAF and `value` the probability of a defect, else `value` is 0. From a probability of `cut`
    on a sample counts as a defect.
    """

    features: tuple[str, ...]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    below: NDArray[np.int64]
    above: NDArray[np.int64]
    value: NDArray[np.float64]
    cut: float

    def probability(self, samples: NDArray[Any]) -> NDArray[np.float64]:
        """The probability of a defect for each row of `samples`, N x number of features."""
        node = np.zeros(len(samples), np.int64)
        while len(rows := np.flatnonzero(self.feature[node] != LEAF)):
            at = node[rows]
            is_low = samples[rows, self.feature[at]] <= self.threshold[at]
            node[rows] = np.where(is_low, self.below[at], self.above[at])
        return self.value[node]

    def decide(self, samples: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows of `samples` are defects."""
        return np.asarray(self.probability(samples) >= self.cut)


@dataclass(frozen=True, slots=True)
class TreeCard:
    """The content of a tree's file: the tree as text and its provenance; `metrics_command` measures it."""

    name: str
    summary: str
    licence: str
    date: str
    recipe: str
    data: str
    data_licences: str
    metrics_command: str
    cut: float
    features: tuple[str, ...]
    sha256: str
    tree: str


def load_tree(name: str, features: Sequence[str]) -> Tree:
    """The built-in tree of this name. Raises ModelError if its file is damaged or asks for other features."""
    path = Path(__file__).parent / "trees" / f"{name}.toml"
    table = read_table(path, "decision tree", ModelError)
    card = fill(TreeCard, table, f"the decision tree {path}", ModelError)
    if text_hash(card.tree) != card.sha256:
        raise ModelError(
            f"the decision tree {path} is not the one that was trained (SHA-256 differs): install vidsr again"
        )
    if card.features != tuple(features):
        raise ModelError(f"the decision tree {path} is for other features: install vidsr again")
    return parse_tree(card.tree, card.features, card.cut)


def text_hash(text: str) -> str:
    """The SHA-256 of a tree's text, without blank space at its ends."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def parse_tree(text: str, features: Sequence[str], cut: float) -> Tree:
    """Reads a tree. Raises ModelError for a text that is none."""
    nodes: list[tuple[int, float, int, int, float]] = []
    lines = text.strip("\n").split("\n")

    def read(depth: int) -> int:
        index = len(nodes)
        if index == len(lines) or depth > MAX_DEPTH:
            raise ModelError(f"the decision tree is incomplete or deeper than {MAX_DEPTH} after line {index}")
        line = lines[index]
        match = re.fullmatch(r"(?P<space> *)(?:(?P<name>\w+) <= )?(?P<number>-?[0-9.]+(?:e[+-]?[0-9]+)?)", line)
        if match is None or len(match["space"]) != 2 * depth or (match["name"] and match["name"] not in features):
            raise ModelError(f"line {index + 1} of the decision tree is not valid: {line[:60]!r}")
        number = float(match["number"])
        if match["name"] is None:
            nodes.append((LEAF, 0.0, 0, 0, number))
            return index
        nodes.append((LEAF, 0.0, 0, 0, 0.0))
        below = read(depth + 1)
        nodes[index] = (tuple(features).index(match["name"]), number, below, read(depth + 1), 0.0)
        return index

    read(0)
    if len(nodes) != len(lines):
        raise ModelError(f"the decision tree ends before line {len(nodes) + 1}: {lines[len(nodes)][:60]!r}")
    columns = list(zip(*nodes, strict=True))
    return Tree(
        tuple(features), np.array(columns[0], np.int64), np.array(columns[1], np.float64),
        np.array(columns[2], np.int64), np.array(columns[3], np.int64), np.array(columns[4], np.float64), cut,
    )  # fmt: skip
