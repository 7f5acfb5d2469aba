"""Scene cuts: marks the frames that start a scene. What an engine does at a mark lives in the engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vidsr.config import SceneConfig
from vidsr.stages.base import through
from vidsr.types import Frame

# The detector sees at most this many pixels on the long side. On 3,000 real cuts and 6,000 real frame pairs 64, 128 and
# 256 separate equally well; 128 costs little and averages noise away.
DETECTOR_PIXELS = 128
# At a cut the colours must also change by this much on average (0..255). Hue and saturation of nearly black or grey
# pixels are pure noise: black frames with a noise of one level score 57 where the threshold is 27, but change by 1.
MIN_CHANGE = 8.0


def mark_scenes(frames: Iterable[Frame], config: SceneConfig) -> Iterator[Frame]:
    """The same frames with `starts_scene` set, as `SceneMarker` does."""
    return through(SceneMarker(config), frames)


@dataclass(slots=True)
class SceneState:
    """How many frames have been seen, and the detector with what it remembers of them; None if it is off."""

    detector: _CutDetector | None
    seen: int = 0


class SceneMarker:
    """The stage that sets `starts_scene`: for the first frame always, for later ones where the detector sees a cut.

    Each frame is given out at once. Cuts depend on the order of the frames only, never on their times.
    A flash is a scene of its own: wrongly starting afresh costs a little sharpness, wrongly going on costs a ghost.
    """

    name = "scenes"

    def __init__(self, config: SceneConfig) -> None:
        self._config = config

    def start(self) -> SceneState:
        """No frame has been seen."""
        return SceneState(_CutDetector(self._config.threshold) if self._config.mode == "auto" else None)

    def step(self, frame: Frame, state: SceneState) -> tuple[list[Frame], SceneState]:
        """Gives the frame with its mark."""
        # The detector must see the first frame too, as the one that the second is compared with.
        is_cut = state.detector is not None and state.detector.is_cut(state.seen, frame.image)
        marked = replace(frame, starts_scene=is_cut or state.seen == 0)
        state.seen += 1
        return [marked], state

    def flush(self, state: SceneState) -> list[Frame]:  # noqa: ARG002 - the signature of a stage
        """Nothing waits."""
        return []


class _CutDetector:
    """PySceneDetect's content detector, and the change of colours that it needs beside it."""

    def __init__(self, threshold: float) -> None:
        # Imported here: loading PySceneDetect takes 0.3 s and starts an ffmpeg process, which `--scenes off` saves.
        from scenedetect import ContentDetector, FrameTimecode

        # No minimum length: PySceneDetect's flash filter drops the second of two close cuts (and, until one length has
        # passed, every cut), but it is that second cut which a recurrent engine must know of. Length 0 has no delay.
        # AdaptiveDetector was not taken: it sees no cut in the first and last two frames, and not three in five frames.
        self._detector = ContentDetector(threshold=threshold, min_scene_len=0)
        self._timecode = FrameTimecode
        self._least_change = min(threshold, MIN_CHANGE)
        self._previous: Tensor | None = None

    def is_cut(self, index: int, image: Tensor) -> bool:
        picture = _reduced_bgr(image)
        change = 0.0 if self._previous is None else float((picture.float() - self._previous.float()).abs().mean())
        self._previous = picture
        # Only the order counts, so any constant rate serves as a clock.
        cuts = self._detector.process_frame(self._timecode(index, fps=25.0), picture.numpy())
        return bool(cuts) and change >= self._least_change


def _reduced_bgr(image: Tensor) -> Tensor:
    """A small H x W x 3 uint8 copy in OpenCV's channel order, averaged over areas; never enlarged."""
    height, width = image.shape[-2:]
    factor = max(1.0, max(height, width) / DETECTOR_PIXELS)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    small = adaptive_avg_pool2d(image.float(), size)
    levels = small.clamp(0.0, 1.0).mul(255.0).round().byte()
    return levels.flip(0).permute(1, 2, 0).contiguous().cpu()
