"""A part of a network as a graph format wants it: plain tensors in, plain tensors out. No graph is made or run here."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

Shapes = dict[str, tuple[int, ...]]


class Step(nn.Module, ABC):
    """Tensors in, tensors out, all float32, in the order of `inputs` and `outputs`."""

    @abstractmethod
    def inputs(self, height: int, width: int) -> Shapes:
        """Name and shape of each input, for frames of this size."""

    @abstractmethod
    def outputs(self, height: int, width: int) -> Shapes:
        """Name and shape of each output, for frames of this size."""
