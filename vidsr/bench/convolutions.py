"""Recording of the convolutions that a network runs, so that each can be timed in isolation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# The part of a run that is outside every named child of the network.
REST = "rest"
# oneDNN's convolutions fused with the operation after them (nets/layers/fused_conv.py), and the position of the weight
# among their arguments.
FUSED = {"mkldnn::_convolution_pointwise": 1, "mkldnn::_convolution_pointwise.binary": 2}


@dataclass(frozen=True, slots=True)
class Convolution:
    """One call of a convolution; equal calls compare equal. Sizes are in torch's order: B x C x H x W and so on."""

    part: str
    input_size: tuple[int, ...]
    weight_size: tuple[int, ...]
    has_bias: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    is_transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    dtype: torch.dtype
    is_channels_last: bool

    @property
    def output_size(self) -> tuple[int, ...]:
        """The spatial size of the result, H x W."""
        sides = zip(
            self.input_size[2:], self.weight_size[2:], self.stride, self.padding, self.dilation, self.output_padding,
            strict=True,
        )  # fmt: skip
        if self.is_transposed:
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in sides)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides)

    @property
    def multiply_adds(self) -> int:
        """Products of weights and samples, including the zeros beyond the border."""
        places = self.input_size[2:] if self.is_transposed else self.output_size
        return self.input_size[0] * math.prod(places) * math.prod(self.weight_size)

    def prepare(self, device: torch.device) -> Callable[[], Tensor]:
        """The same convolution on random values in channels-last order, as a function to call repeatedly."""

        def values(*size: int) -> Tensor:
            return torch.rand(size, device=device).to(self.dtype)

        image = values(*self.input_size).contiguous(memory_format=torch.channels_last)
        weight = values(*self.weight_size).contiguous(memory_format=torch.channels_last)
        bias_size = self.weight_size[1] * self.groups if self.is_transposed else self.weight_size[0]
        bias = values(bias_size) if self.has_bias else None

        def call() -> Tensor:
            return torch.ops.aten.convolution.default(  # type: ignore[no-any-return]
                image, weight, bias, self.stride, self.padding, self.dilation,
                self.is_transposed, self.output_padding, self.groups,
            )  # fmt: skip

        return call


class ConvolutionRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations here
    """Records every 2-D convolution that runs while it is active, in the layers or outside."""

    def __init__(self) -> None:
        """Calls before the first `on_change` belong to REST."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Convolution] = []
        self.part = REST

    def on_change(self, part: str) -> None:
        """Sets the part of the network that runs from now on; for `watch_parts`."""
        self.part = part

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch for every operation; runs it unchanged."""
        options = dict(kwargs or {})
        if func is torch.ops.aten.convolution.default:
            image, weight, bias, stride, padding, dilation, is_transposed, output_padding, groups = args
            if image.ndim == 4:
                self._note(image, weight, bias, stride, padding, dilation, is_transposed, output_padding, groups)
            return func(*args, **options)
        if func.name() in FUSED:
            image, weight, bias, padding, stride, dilation, groups = args[:1] + args[FUSED[func.name()] :][:6]
            self._note(image, weight, bias, stride, padding, dilation, False, (0, 0), groups)
            return func(*args, **options)
        # In inference mode, with weights that need no gradient, conv2d arrives whole: its decomposition is recorded.
        with self:
            result = func.decompose(*args, **options)
        return func(*args, **options) if result is NotImplemented else result

    def _note(
        self, image: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
        dilation: Sequence[int], is_transposed: bool, output_padding: Sequence[int], groups: int,
    ) -> None:  # fmt: skip
        self.calls.append(
            Convolution(
                self.part, tuple(image.shape), tuple(weight.shape), bias is not None, _pair(stride),
                _pair(padding), _pair(dilation), is_transposed, _pair(output_padding), groups, image.dtype,
                image.is_contiguous(memory_format=torch.channels_last),
            )
        )  # fmt: skip


def _pair(values: Sequence[int]) -> tuple[int, ...]:
    """One number for each axis; torch may pass one for both."""
    return tuple(values) * 2 if len(values) == 1 else tuple(values)


@contextmanager
def watch_parts(network: nn.Module, on_change: Callable[[str], None]) -> Iterator[None]:
    """Calls `on_change` with the name of the network's child that begins to run, and with REST when it ends.

    A child counts as running while it or any module in it does, whichever of them is called first.
    """
    running: list[str] = []

    def enter(part: str) -> None:
        running.append(part)
        if len(running) == 1:
            on_change(part)

    def leave() -> None:
        running.pop()
        if not running:
            on_change(REST)

    handles = []
    for name, module in network.named_modules():
        if name:
            part = name.partition(".")[0]
            handles.append(module.register_forward_pre_hook(lambda _module, _inputs, part=part: enter(part)))
            handles.append(module.register_forward_hook(lambda _module, _inputs, _output: leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class PartClock:
    """Seconds of each part, by name; `on_change` is for `watch_parts`."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` returns the time in seconds after the device has finished its work (`device_clock`)."""
        self.seconds: dict[str, float] = {}
        self._now, self._part, self._since = now, REST, now()

    def on_change(self, part: str) -> None:
        """Adds the time since the last change to the part that ran."""
        now = self._now()
        self.seconds[self._part] = self.seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def stop(self) -> dict[str, float]:
        """The seconds of all parts up to now."""
        self.on_change(REST)
        return self.seconds


def device_clock(device: torch.device) -> Callable[[], float]:
    """A function that waits until the device has finished its work, and returns the time in seconds."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    return now
