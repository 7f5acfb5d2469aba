"""Functions that the registry's rows name: run a network on a clip, check a stored example, count multiply-adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidsr.errors import ModelError, VidsrError
from vidsr.models.cards import Card
from vidsr.models.loading import load_network, run_golden
from vidsr.nets.layers.blocks import depth_to_space
from vidsr.nets.secnet.network import ClipReferences
from vidsr.nets.single_image import run_padded
from vidsr.runtime.onnx_session import start_session

# Values of a stored clip or image, at most; those of the shipped models have 2304 and 18,432.
LARGEST_CLIP, LARGEST_IMAGE = 1 << 16, 1 << 20
CLIP_SIDE, IMAGE_SIDE = 32, 64  # sides of the frames on which multiply-adds are counted
FACE_SIDE = 16  # of the tiny faces for which MPENet was made
HIME_REFERENCES = 3


def secnet_clip(network: Any, clip: Tensor) -> Tensor:
    """SECNet's algorithm 4 on all frames of a clip: 1 x T x 3 x h x w to T x 3 x H x W.

    The first frame, enlarged by Keys' bicubic interpolation, is the reference of a network that takes references.
    """
    references = None
    if network.references is not None:
        photograph = depth_to_space(network.bicubic(clip[0, :1]), network.config.scale).clamp(0, 1)
        poses = torch.eye(2, 3).expand(1, clip.shape[1], 1, 2, 3)
        references = ClipReferences(photograph[None], poses)
    results: Tensor = network(clip, references=references).results[0]
    return results


def zsm_clip(network: Any, clip: Tensor) -> Tensor:
    """Zooming SlowMo on a clip as one temporal window: 1 x T x 3 x h x w to (2T - 1) x 3 x H x W."""
    results: Tensor = network(clip)[0]
    return results


def single_images(network: Any, clip: Tensor) -> Tensor:
    """A single-image network on each frame of a clip: 1 x T x 3 x h x w to T x 3 x H x W."""
    return torch.cat([run_padded(network, network.config, image[None]) for image in clip[0]])


def hime_clip(network: Any, clip: Tensor) -> Tensor:
    """A HIME on each frame of a clip, with the other frames as its references: 1 x T x 3 x h x w to T x 3 x H x W.

    For that the others are enlarged by Keys' bicubic interpolation.
    """
    large = depth_to_space(network.bicubic(clip[0]), network.config.scale).clamp(0, 1)
    others = [torch.cat((large[:t], large[t + 1 :]))[None] for t in range(len(large))]
    return torch.cat([network(image[None], references) for image, references in zip(clip[0], others, strict=True)])


def golden_clip(card: Card) -> float:
    """Runs a network on its stored clip in float32 on the CPU; returns the largest difference from the example."""
    network = load_network(card)
    golden = card.read_golden()
    _check_example(card, golden["input"], 4, largest=LARGEST_CLIP)
    if "output" not in golden:
        raise ModelError(f"the stored example {card.golden_path} has no output")
    found = run_golden(network, golden["input"])
    return _distance(found, golden["output"].astype(np.float32))


def golden_image(card: Card) -> float:
    """Runs the model's ONNX file on the stored image on the CPU; returns the largest difference of all outputs."""
    card.check_weights()
    golden = card.read_golden()
    _check_example(card, golden["input"], 3, largest=LARGEST_IMAGE)
    image = golden.pop("input").astype(np.float32)
    try:
        session = start_session(card.weights_path, torch.device("cpu"), threads=1)
        found = session.run(list(golden), {session.get_inputs()[0].name: image[None]})
    except VidsrError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ModelError(f"{card.weights_path} cannot be run: {error}") from error
    return max(_distance(one, stored) for one, stored in zip(found, golden.values(), strict=True))


def secnet_multiply_adds(network: Any) -> float:
    """Multiply-adds per input pixel of a frame with a full past: the last one of a clip of T3 + 2 frames.

    T3 is the number of past features of the bidirectional encoding. A mirrored network runs twice for each frame.
    """
    return _last_frame(network, network.config.t3 + 1) * (2.0 if network.config.mirrored else 1.0)


def zsm_multiply_adds(network: Any) -> float:
    """Multiply-adds per input pixel, averaged over an input and an interpolated frame, without bilinear sampling."""
    return _last_frame(network, 2) / 2


def single_image_multiply_adds(network: Any) -> float:
    """Multiply-adds per pixel of one image."""
    return _counted(network, torch.zeros(1, 3, IMAGE_SIDE, IMAGE_SIDE)) / IMAGE_SIDE**2


def face_multiply_adds(network: Any) -> float:
    """Multiply-adds per pixel of one image of the size of a tiny face; a branch sees the whole image."""
    return _counted(network.eval(), torch.zeros(1, 3, FACE_SIDE, FACE_SIDE)) / FACE_SIDE**2


def hime_multiply_adds(network: Any) -> float:
    """Multiply-adds per pixel of one image with three references, as table 5.1 of the dissertation counts them."""
    side = network.config.scale * IMAGE_SIDE
    given = torch.zeros(1, 3, IMAGE_SIDE, IMAGE_SIDE), torch.zeros(1, HIME_REFERENCES, 3, side, side)
    return _counted(network, *given) / IMAGE_SIDE**2


def detector_multiply_adds(network: Any) -> float:
    """Multiply-adds per pixel of one image, with batch normalization as in inference."""
    return single_image_multiply_adds(network.eval())


def stated_multiply_adds(network: Any) -> float:
    """Multiply-adds per pixel of one image, as they were counted when the network was imported; 0 if they were not."""
    return float(network.config.multiply_adds)


def _check_example(card: Card, image: NDArray[Any], sides: int, largest: int) -> None:
    """Raises ModelError unless a stored input is an image, 3 x H x W, or a clip, T x 3 x H x W, that is small."""
    if image.ndim != sides or image.shape[-3] != 3 or image.size > largest:
        raise ModelError(f"the stored example {card.golden_path} is misshapen: its input is {image.shape}")


def _last_frame(network: Any, shortest: int) -> float:
    """Multiply-adds per pixel that one more frame adds to a clip of `shortest` frames."""
    counts = [_counted(network, torch.zeros(1, n, 3, CLIP_SIDE, CLIP_SIDE)) for n in (shortest, shortest + 1)]
    return (counts[1] - counts[0]) / CLIP_SIDE**2


@torch.no_grad()
def _counted(network: Any, *values: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        network(*values)
    return float(counter.get_total_flops()) / 2


def _distance(found: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    if found.shape != stored.shape:
        return float("inf")
    return float(np.abs(found - stored).max(initial=0.0))
