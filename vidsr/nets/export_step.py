"""Base class of the export steps: the parts of a network that become ONNX graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

Shapes = dict[str, tuple[int, ...]]


class Step(nn.Module, ABC):
    """A module from float32 tensors to float32 tensors, in the order of `inputs` and `outputs`."""

    @abstractmethod
    def inputs(self, height: int, width: int) -> Shapes:
        """Name and shape of each input, for frames of this size."""

    @abstractmethod
    def outputs(self, height: int, width: int) -> Shapes:
        """Name and shape of each output, for frames of this size."""
