"""The only place that starts ONNX Runtime: on the CPU or CUDA, with the threads that it may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vidsr.errors import DeviceError, UsageError

FATAL = 4  # all that ONNX Runtime says itself: its errors are raised as well
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def start_session(
    model: bytes | Path, device: torch.device, threads: int, is_exact: bool = False, remedy: str = "use --device cpu"
) -> Any:
    """A session for a model in memory or in a file, on the CPU or CUDA.

    `is_exact` keeps CUDA from rounding to the ten bits of TF32, which are too few for 1e-3. `remedy` ends the message
    of a DeviceError, raised where ONNX Runtime does not reach the device; UsageError if it is not installed. Whatever
    it raises itself for a bad model goes through: its errors share no base class.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("ONNX Runtime is missing: install it with 'pip install onnxruntime'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the codecs need the cores too
    options.log_severity_level = FATAL
    content = model if isinstance(model, bytes) else str(model)
    if device.type == "cpu":
        return onnxruntime.InferenceSession(content, options, providers=[CPU])
    if device.type != "cuda" or CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(f"ONNX Runtime does not reach '{device}' here: {remedy}")
    settings = {"device_id": device.index or 0} | ({"use_tf32": 0} if is_exact else {})
    session = onnxruntime.InferenceSession(content, options, providers=[(CUDA, settings), CPU])
    if session.get_providers()[0] != CUDA:  # it only warns when its libraries are missing
        raise DeviceError(f"ONNX Runtime cannot load its CUDA libraries: {remedy}")
    return session
