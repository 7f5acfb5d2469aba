"""Frames that are in no file: arrays or tensors in, larger or more ones of the same kind out, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vidsr.config import RunConfig
from vidsr.engines.select import select_card
from vidsr.errors import InputError
from vidsr.pipeline.plan import plan_frames, task_of
from vidsr.pipeline.run import load
from vidsr.runtime.device import choose_device
from vidsr.stages.base import chain
from vidsr.types import Colour, Frame, VideoInfo

Image = TypeVar("Image", np.ndarray[Any, Any], Tensor)
# Only the order of frames counts here; any time base serves.
TIME_BASE = Fraction(1, 25)
KINDS = "H x W x 3 arrays or 3 x H x W tensors, uint8 or floating point in 0..1"


@dataclass(frozen=True, slots=True)
class Kind:
    """What all frames of one call are alike in: array or tensor, its type and its shape."""

    is_tensor: bool
    dtype: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, image: Any, index: int) -> Kind:
        """The kind of a frame; raises InputError for what is not one."""
        is_tensor = isinstance(image, Tensor)
        if not is_tensor and not isinstance(image, np.ndarray):
            raise InputError(f"frame {index} is a {type(image).__name__}: give {KINDS}")
        kind = cls(is_tensor, image.dtype, tuple(image.shape))
        is_floating = image.dtype.is_floating_point if is_tensor else np.issubdtype(image.dtype, np.floating)
        is_image = len(kind.shape) == 3 and kind.shape[0 if is_tensor else 2] == 3 and min(kind.shape) > 0
        if not is_image or not (is_floating or kind.is_8_bit):
            raise InputError(f"frame {index} is {kind}: give {KINDS}")
        return kind

    def __str__(self) -> str:
        noun = "a tensor" if self.is_tensor else "an array"
        return f"{noun} of {' x '.join(map(str, self.shape))} {str(self.dtype).removeprefix('torch.')}"

    @property
    def is_8_bit(self) -> bool:
        """Whether values are 0..255, not 0..1."""
        return bool(self.dtype == (torch.uint8 if self.is_tensor else np.uint8))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[1:] if self.is_tensor else self.shape[:2]  # type: ignore[return-value]  # three sides

    def read(self, image: Any, index: int, device: torch.device) -> Tensor:
        """A frame as 3 x H x W, float32, 0..1 on the device; raises InputError for other values."""
        tensor = image.detach() if self.is_tensor else torch.from_numpy(np.array(image)).permute(2, 0, 1)
        tensor = tensor.to(device=device, dtype=torch.float32).contiguous()
        if self.is_8_bit:
            return tensor / 255
        low, high = (float(value) for value in tensor.aminmax())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise InputError(f"frame {index} holds values from {low:g} to {high:g}: scale or clip them to 0..1")
        return tensor

    def write(self, image: Tensor, device: torch.device) -> Any:
        """A frame of the result in this kind; `device` is where a tensor is to be."""
        image = image.clamp(0, 1)
        if self.is_8_bit:
            image = (image * 255).round()
        if self.is_tensor:
            return image.to(device=device, dtype=self.dtype)
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy().astype(self.dtype))


def enhance_frames(frames: Iterable[Image], config: RunConfig) -> Iterator[Image]:
    """The frames of the result, of the kind of the given ones; as many, or (N - 1) x interp + 1 of N.

    Frames are RGB: H x W x 3 arrays or 3 x H x W tensors, uint8 or floating point in 0..1, all of one kind and size.
    No more of them are held than the model looks ahead. Model and device are checked at once: raises ModelError,
    DeviceError or UsageError; InputError, for a frame that is not one or unlike the first, comes with that frame.
    Faces are not restored and repeated frames are left alone, whatever the configuration says.
    """
    select_card(config.compute.model, task_of(config))
    return _enhanced(iter(frames), config, choose_device(config.compute.device))


def _enhanced(frames: Iterator[Any], config: RunConfig, device: torch.device) -> Iterator[Any]:
    head = list(itertools.islice(frames, 1))
    if not head:
        return
    first = head[0]
    kind = Kind.of(first, 0)
    home = first.device if isinstance(first, Tensor) else device
    planned = plan_frames(_described(*kind.size), config)
    stages = load(planned).stages(planned)
    given = _read(itertools.chain(head, frames), kind, device)
    for frame in chain([*stages.ahead, *stages.beside], given):
        yield kind.write(frame.image, home)


def _read(frames: Iterable[Any], kind: Kind, device: torch.device) -> Iterator[Frame]:
    for index, image in enumerate(frames):
        if (other := Kind.of(image, index)) != kind:
            raise InputError(f"frame {index} is {other}, but the first is {kind}: give frames of one kind and size")
        yield Frame(kind.read(image, index, device), index, TIME_BASE, 1)


def _described(height: int, width: int) -> VideoInfo:
    """Frames of this size as the header of a video would describe them."""
    return VideoInfo(
        path="", container="", video_stream=0, codec="", width=width, height=height, pixel_format="rgb24", bit_depth=8,
        time_base=TIME_BASE, colour=Colour(),
    )  # fmt: skip
