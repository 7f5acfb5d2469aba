"""Post-processing of interpolated frames: corrects their mean color, and extrapolates motion before scene cuts.

The engines make the interpolated frames; input and interpolated frames arrive here in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from vidsr.stages.base import through
from vidsr.types import Frame

# Images whose short side is smaller than about this many pixels are enlarged for optical flow.
FLOW_PIXELS = 200


def finish_interpolated_frames(frames: Iterable[Frame], interp: int) -> Iterator[Frame]:
    """Passes frames through an `InterpolatedFrameFinisher`."""
    return through(InterpolatedFrameFinisher(interp), frames)


@dataclass(slots=True)
class FinisherState:
    """The number of frames so far, the last two input frames of the scene, and the interpolated ones since."""

    seen: int = 0
    before: Frame | None = None
    last: Frame | None = None
    interpolated: list[Frame] = field(default_factory=list)


class InterpolatedFrameFinisher:
    """The stage that corrects interpolated frames; of each `interp` frames the first is an input frame.

    Between two input frames of a scene, an interpolated frame gets the mean color interpolated between theirs. Without
    this, zsm-fast in training was off by up to 1/255 in fast motion, visible as pulsing; PSNR stays within 0.01 dB.
    Before a cut, an interpolated frame shows the last input frame with its motion extrapolated, or a copy of it if it
    is the only frame of its scene. Extrapolation is better than repetition by 3.6 dB on fast motion, 4.8 dB on Vid4 and
    0.15 dB on faces (a frame predicted from the two before it, reduced by 4, PSNR Y).
    """

    name = "new_frames"  # a public key of stage_seconds, older than the term "interpolated frames"

    def __init__(self, interp: int) -> None:
        self._interp = interp

    def start(self) -> FinisherState:
        """The state before the first frame."""
        return FinisherState()

    def step(self, frame: Frame, state: FinisherState) -> tuple[list[Frame], FinisherState]:
        """Takes a frame; for an input frame, returns the interpolated ones before it and then the frame itself."""
        state.seen += 1
        if (state.seen - 1) % self._interp:
            state.interpolated.append(frame)
            return [], state
        last, interpolated = state.last, state.interpolated
        if last is not None and frame.starts_scene:
            for index in range(len(interpolated)):
                interpolated[index] = replace(
                    interpolated[index], image=self._extrapolated(last, state.before, index + 1)
                )
            last = None
        elif last is not None:
            colors = _mean_color(last.image), _mean_color(frame.image)
            for index, held in enumerate(interpolated):  # replaced one by one, because frames may be large
                fraction = (index + 1) / self._interp
                interpolated[index] = replace(held, image=_with_mean_color(held.image, torch.lerp(*colors, fraction)))
        else:
            interpolated = []
        return [*interpolated, frame], FinisherState(state.seen, last, frame)

    def flush(self, state: FinisherState) -> list[Frame]:  # noqa: ARG002 - the signature of a stage
        """A video ends with an input frame, so nothing is pending."""
        return []

    def _extrapolated(self, last: Frame, before: Frame | None, number: int) -> Tensor:
        return last.image if before is None else extrapolate_motion(last.image, before.image, number / self._interp)


def extrapolate_motion(last: Tensor, before: Tensor, fraction: float) -> Tensor:
    """Extrapolates the image `last` (3 x H x W, 0..1) by `fraction` of its motion since `before`.

    The motion is the reverse of the DIS optical flow (Kroeger et al., 2016) from `last` to `before`.
    """
    height, width = last.shape[-2:]
    factor = min(4, max(1, round(FLOW_PIXELS / min(height, width))))
    size = (width * factor, height * factor)
    gray = [cv2.resize(_gray(image), size, interpolation=cv2.INTER_CUBIC) for image in (last, before)]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(gray[0], gray[1], None)  # type: ignore[call-overload]
    flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) * np.float32(fraction / factor)
    x, y = (
        (flow[..., 0] + np.arange(width, dtype=np.float32)),
        (flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]),
    )
    pixels = last.permute(1, 2, 0).float().cpu().contiguous().numpy()
    moved = cv2.remap(pixels, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(moved).permute(2, 0, 1).contiguous().clamp_(0, 1).to(last)


def _gray(image: Tensor) -> np.ndarray:
    return image.float().mean(0).clamp(0, 1).mul(255).round().byte().cpu().numpy()


def _mean_color(image: Tensor) -> Tensor:
    return image.mean(dim=(1, 2))


def _with_mean_color(image: Tensor, color: Tensor) -> Tensor:
    return (image + (color - _mean_color(image))[:, None, None]).clamp_(0, 1)
