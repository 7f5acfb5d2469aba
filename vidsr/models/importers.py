"""Importer of weights released by a network's authors: converts the user's copy to a model with a card."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidsr.errors import ModelError, OutputError
from vidsr.models.cards import sha256_of
from vidsr.models.loading import check_tensors
from vidsr.models.registry import architecture_of, build, released_weights
from vidsr.models.writing import files_of, write_model

# Names under which training code keeps the tensors in its checkpoints, the preferred ones first.
WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
PREFIX = "module."  # what DataParallel puts before each name


def import_model(name: str, source: Path, folder: Path, overwrite: bool = False) -> Path:
    """Converts the authors' checkpoint `source` (.pth) to the model `name` in `folder`; returns the card's path.

    The weights are written in float32, so nothing is rounded. No code in the file is run. Raises ModelError for an
    unknown model or a file that is not its checkpoint, OutputError if the card exists and `overwrite` is off.
    """
    known = released_weights()
    released = architecture_of(known[name]).released if name in known else None
    if released is None:
        raise ModelError(f"there are no released weights of '{name}' to import: known are {', '.join(known)}")
    for path in files_of(folder, name, "safetensors"):
        if path.exists() and path.samefile(source):
            raise OutputError(f"{path} is the checkpoint itself: choose another folder with --output")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already: choose another folder with --output or give --overwrite")
    network = build(known[name], {})  # the defaults are the published sizes
    tensors = {key: value.float() for key, value in read_tensors(source).items()}
    check_tensors(network, tensors, f"{source} is not the released checkpoint of '{name}'")
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{source} is damaged ('{key}' holds values that are not finite): fetch it again")
    network.load_state_dict(tensors)
    head = {
        "name": name,
        "summary": f"{released.title}, imported from {source.name}",
        "architecture": known[name],
    }
    facts = {
        "licence": released.licence,
        "date": datetime.date.today().isoformat(),
        "origin": source.name,
        "origin_sha256": sha256_of(source),
    }
    return write_model(folder, head, network.requires_grad_(False), torch.float32, np.float32, facts)


def read_tensors(source: Path, wanted: str = "the authors' file") -> dict[str, Tensor]:
    """The named tensors of a checkpoint (.pth); no code in it is run.

    Raises ModelError, with a remedy that asks for what is `wanted`, for anything else.
    """
    try:
        content: Any = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read {source}: {error.strerror}") from error
    except Exception as error:  # torch.load has no exception class of its own for foreign files
        raise ModelError(f"{source} is not a PyTorch checkpoint of plain tensors: give {wanted}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{source} holds no named tensors: give {wanted}")
    if all(isinstance(key, str) and key.startswith(PREFIX) for key in content):
        content = {key.removeprefix(PREFIX): value for key, value in content.items()}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(f"{source} is not a checkpoint of weights: it holds '{key}', which is not a tensor")
    return dict(content)
