"""A CUDA device that computes nothing, on any machine: tensors with a shape, a type and a place, and no values.

What reads a value on the host, copies a tensor back to it or mixes devices raises there and then, as torch's
FakeTensorMode has it; `.cpu()`, which that mode allows, raises HostCopy.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidsr.nets.layers import deformable, resize
from vidsr.nets.layers.resize import Band

CUDA = torch.device("cuda", 0)


class HostCopy(Exception):
    """A tensor was copied from the device to the host."""


class _NoHostCopies(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(_is_on(leaf, "cpu") for leaf in tree_leaves(results)) and any(
            _is_on(leaf, "cuda") for leaf in tree_leaves((args, kwargs))
        ):
            raise HostCopy(f"{func} copies from the device to the host")
        return results


def _is_on(value: object, kind: str) -> bool:
    return isinstance(value, Tensor) and value.device.type == kind


@contextmanager
def pretend_cuda() -> Iterator[torch.device]:
    """Within it tensors have no values, on the host neither; networks are to be built within it.

    Tables that the program computes on the host once for each size and then keeps have values until they go to the
    device; none is kept afterwards.
    """
    kept = resize._resize_bands, deformable._cached_kernel_points
    for table in kept:
        table.cache_clear()
    bands = _bands_with_values(resize._resize_bands)
    try:
        with (
            mock.patch.object(nn.Module, "_apply", _apply),
            mock.patch.object(FakeTensor, "__deepcopy__", _deepcopy),
            mock.patch.object(resize, "_resize_bands", bands),
            # Without a card torch switches autocast off and warns.
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            mock.patch.object(torch.cuda, "is_bf16_supported", lambda: True),
            _device_guard(),
            FakeTensorMode(),
            _NoHostCopies(),
        ):
            yield CUDA
    finally:
        for table in kept:
            table.cache_clear()


def _apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """As torch's, which cannot exchange parameters without values for others."""
    for child in self.children() if recurse else ():
        child._apply(change)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            self._parameters[name] = nn.Parameter(change(parameter.data), parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = change(buffer)
    return self


def _deepcopy(self: FakeTensor, memo: dict[int, Any]) -> Tensor:
    """As torch's, which looks at the address of the values."""
    copied = self.detach().clone()
    memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
    return memo[id(self)]


def _bands_with_values(original: Callable[..., tuple[Band, ...]]) -> Callable[..., tuple[Band, ...]]:
    def bands(old: int, new: int, kernel: Any, antialias: bool, dtype: torch.dtype, device: torch.device) -> Any:
        with unset_fake_temporarily():
            known = original(old, new, kernel, antialias, dtype, torch.device("cpu"))
        return tuple(band._replace(matrix=torch.empty(band.matrix.shape, dtype=dtype, device=device)) for band in known)

    return bands


@contextmanager
def _device_guard() -> Iterator[None]:
    """Where torch was built without CUDA, its table of devices gets one that does nothing: that of "meta" tensors.

    FakeTensorMode does it itself where torch was built with CUDA and there is no card.
    """
    if torch.backends.cuda.is_built():
        yield
        return
    name = {"linux": "libc10.so", "darwin": "libc10.dylib"}[sys.platform]
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
    cuda, meta = 1, 14  # c10::DeviceType
    table = (ctypes.c_void_p * (meta + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    assert table[cuda] is None and table[meta] is not None, "torch's table of devices is another one"
    table[cuda] = table[meta]
    try:
        yield
    finally:
        table[cuda] = None
