"""Starts ONNX Runtime sessions on the CPU or CUDA. The only module that imports ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from vidsr.errors import DeviceError, UsageError

FATAL = 4  # log level; errors are raised as exceptions anyway
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TELEMETRY = "ORT_DISABLE_TELEMETRY"  # read while the library is imported; disable_telemetry_events() is too late


def start_session(
    model: bytes | Path, device: torch.device, threads: int, is_exact: bool = False, remedy: str = "use --device cpu",
    has_plans: bool = True,
) -> Any:  # fmt: skip
    """A session for a model in memory or in a file, on the CPU or CUDA.

    With `has_plans`, the second run with images of a size takes one more block of memory, planned by what the first
    one took in parts and has kept: a little faster, and twice the memory. `is_exact` turns TF32 off on CUDA: its ten
    bits are too few for an accuracy of 1e-3. Raises DeviceError, whose message ends with `remedy`, if ONNX Runtime
    cannot use the device, and UsageError if it is not installed. Its own exceptions for an invalid model are passed on:
    they share no base class.
    """
    onnxruntime = _library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the video codecs need the cores too
    options.enable_mem_pattern = has_plans
    options.log_severity_level = FATAL
    content = model if isinstance(model, bytes) else str(model)
    if device.type == "cpu":
        return onnxruntime.InferenceSession(content, options, providers=[CPU])
    if device.type != "cuda" or CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(f"ONNX Runtime cannot use device '{device}': {remedy}")
    settings = {"device_id": device.index or 0} | ({"use_tf32": 0} if is_exact else {})
    session = onnxruntime.InferenceSession(content, options, providers=[(CUDA, settings), CPU])
    if session.get_providers()[0] != CUDA:  # it only logs a warning when its libraries are missing
        raise DeviceError(f"ONNX Runtime cannot load its CUDA libraries: {remedy}")
    return session


def version_and_providers() -> tuple[str, list[str]]:
    """The version of ONNX Runtime and its execution providers. Raises UsageError if it is not installed."""
    onnxruntime = _library()
    return onnxruntime.__version__, onnxruntime.get_available_providers()


def _library() -> Any:
    """ONNX Runtime without its telemetry, which would write into the home and temporary folders, and send.

    The environment variable also holds for processes started from here; a value that the user has set is kept.
    """
    os.environ.setdefault(TELEMETRY, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("ONNX Runtime is not installed: install it with 'pip install onnxruntime'") from error
    return onnxruntime
