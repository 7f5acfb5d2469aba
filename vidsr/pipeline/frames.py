"""Super-resolution and interpolation of frames in memory: arrays or tensors in, the same type out."""

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
from vidsr.engines.select import levels_of, select_card, task_of
from vidsr.errors import InputError
from vidsr.pipeline.plan import plan_frames
from vidsr.pipeline.run import load
from vidsr.runtime.device import choose_device
from vidsr.stages.base import chain
from vidsr.types import Color, Frame, VideoInfo

Image = TypeVar("Image", np.ndarray[Any, Any], Tensor)
# Only the order of frames matters here, so any time base will do.
TIME_BASE = Fraction(1, 25)
KINDS = "H x W x 3 arrays or 3 x H x W tensors, uint8 or floating point in 0..1"


@dataclass(frozen=True, slots=True)
class Kind:
    """What all frames of one call have in common: array or tensor, dtype and shape."""

    is_tensor: bool
    dtype: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, image: Any, index: int) -> Kind:
        """The kind of a frame. Raises InputError for an object that is not a frame."""
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
        """A frame as 3 x H x W, float32, 0..1, on the device. Raises InputError for values outside 0..1."""
        tensor = image.detach() if self.is_tensor else torch.from_numpy(np.array(image)).permute(2, 0, 1)
        tensor = tensor.to(device=device, dtype=torch.float32).contiguous()
        if self.is_8_bit:
            return tensor / 255
        low, high = (float(value) for value in tensor.aminmax())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise InputError(f"frame {index} has values from {low:g} to {high:g}: scale or clip them to 0..1")
        return tensor

    def write(self, image: Tensor, device: torch.device) -> Any:
        """An output frame in this kind, on `device` if it is a tensor."""
        image = image.clamp(0, 1)
        if self.is_8_bit:
            image = (image * 255).round()
        if self.is_tensor:
            return image.to(device=device, dtype=self.dtype)
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy().astype(self.dtype))


def enhance_frames(frames: Iterable[Image], config: RunConfig) -> Iterator[Image]:
    """Enlarges or interpolates frames; N frames give N, or (N - 1) x interp + 1, of the same kind.

    Frames are RGB: H x W x 3 arrays or 3 x H x W tensors, uint8 or floating point in 0..1, all of one kind and size.
    No more input frames are held than the model looks ahead. Model and device are checked immediately: raises
    ModelError, DeviceError or UsageError. InputError, for an invalid frame or one that differs from the first, is
    raised when that frame is read. Faces are not restored and repeated frames are kept, whatever the configuration.
    """
    select_card(config.compute.model, task_of(config), levels_of(config))
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
    decoded = _read(itertools.chain(head, frames), kind, device)
    for frame in chain([*stages.ahead, *stages.beside], decoded):
        yield kind.write(frame.image, home)


def _read(frames: Iterable[Any], kind: Kind, device: torch.device) -> Iterator[Frame]:
    for index, image in enumerate(frames):
        if (other := Kind.of(image, index)) != kind:
            raise InputError(f"frame {index} is {other}, but the first is {kind}: give frames of one kind and size")
        yield Frame(kind.read(image, index, device), index, TIME_BASE, 1)


def _described(height: int, width: int) -> VideoInfo:
    """A video header for frames of this size."""
    return VideoInfo(
        path="", container="", video_stream=0, codec="", width=width, height=height, pixel_format="rgb24", bit_depth=8,
        time_base=TIME_BASE, color=Color(),
    )  # fmt: skip
