"""Scene cut detection: marks the frames that start a scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from vidsr.config import SceneConfig
from vidsr.stages.reduction import reduce_image
from vidsr.types import Frame

# Frames are reduced to this many pixels on the long side. On 3,000 real cuts and 6,000 real frame pairs 64, 128 and 256
# separate equally well; 128 costs little and averages noise away.
DETECTOR_PIXELS = 128
# At a cut the colors must also change by at least this much on average (0..255). Hue and saturation of nearly black or
# gray pixels are pure noise: black frames with a noise of one level score 57 (threshold 27), but change only by 1.
MIN_CHANGE = 8.0


@dataclass(slots=True)
class SceneState:
    """The number of frames so far, and the detector with its own state; None if detection is off."""

    detector: _CutDetector | None
    seen: int = 0


class SceneMarker:
    """The stage that sets `starts_scene`: on the first frame, and where the detector finds a cut.

    Each frame is returned immediately. Cuts depend only on the order of frames, never on their times. A flash counts as
    a scene of its own: an unnecessary reset costs a little sharpness, a missed one causes ghosting.
    """

    name = "scenes"

    def __init__(self, config: SceneConfig) -> None:
        self._config = config

    def start(self) -> SceneState:
        """The state before the first frame."""
        return SceneState(_CutDetector(self._config.threshold) if self._config.mode == "auto" else None)

    def step(self, frame: Frame, state: SceneState) -> tuple[list[Frame], SceneState]:
        """Returns the frame with `starts_scene` set."""
        # The detector needs the first frame too, to compare the second one with it.
        is_cut = state.detector is not None and state.detector.is_cut(state.seen, frame.image)
        marked = replace(frame, starts_scene=is_cut or state.seen == 0)
        state.seen += 1
        return [marked], state

    def flush(self, state: SceneState) -> list[Frame]:  # noqa: ARG002 - the signature of a stage
        """No frame is ever pending."""
        return []

    def save(self, state: SceneState) -> tuple[int, Tensor | None]:
        """The number of frames so far and the last image of the detector, on which alone the next decision depends."""
        return state.seen, None if state.detector is None else state.detector.previous

    def restore(self, saved: tuple[int, Tensor | None]) -> SceneState:
        """The state with a new detector that has seen the last image."""
        state = self.start()
        state.seen, image = saved
        if state.detector is not None and image is not None:
            state.detector.see(state.seen - 1, image)
        return state


class _CutDetector:
    """PySceneDetect's content detector, combined with a minimum change of colors."""

    def __init__(self, threshold: float) -> None:
        # Imported here: loading PySceneDetect takes 0.3 s and starts an ffmpeg process, which `--scenes off` saves.
        from scenedetect import ContentDetector, FrameTimecode

        # No minimum scene length: PySceneDetect's flash filter drops the second of two close cuts (and every cut before
        # one length has passed), but a recurrent engine must reset at that second cut. Length 0 has no delay.
        # AdaptiveDetector misses cuts in the first and last two frames, and three cuts within five frames.
        self._detector = ContentDetector(threshold=threshold, min_scene_len=0)
        self._timecode = FrameTimecode
        self._min_change = min(threshold, MIN_CHANGE)
        self.previous: Tensor | None = None

    def is_cut(self, index: int, image: Tensor) -> bool:
        return self.see(index, _reduced_bgr(image))

    def see(self, index: int, reduced: Tensor) -> bool:
        """Whether the next image, reduced, begins a scene."""
        change = 0.0 if self.previous is None else float((reduced.float() - self.previous.float()).abs().mean())
        self.previous = reduced
        # Only the order matters, so any constant frame rate will do.
        cuts = self._detector.process_frame(self._timecode(index, fps=25.0), reduced.numpy())
        return bool(cuts) and change >= self._min_change


def _reduced_bgr(image: Tensor) -> Tensor:
    """A small H x W x 3 uint8 copy on the CPU, in OpenCV's channel order."""
    small = reduce_image(image.float(), DETECTOR_PIXELS)
    levels = small.clamp(0.0, 1.0).mul(255.0).round().byte()
    return levels.flip(0).permute(1, 2, 0).contiguous().cpu()
