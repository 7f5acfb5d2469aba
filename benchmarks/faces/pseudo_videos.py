"""Pseudo-videos: clips made from a still image, with exactly known landmarks.

Dissertation, section 3.4.1, data augmentation: "continuous changes in the pixel-wise noise, motion blur, brightness,
scale, projective distortions"; a storyboard assigns the start and the end, "where the intermediate steps are set to
adapt to the fps". The text gives no ranges and no formula. Ours: every quantity goes linearly from start to end; the
camera is one projective map per frame, applied to image and landmarks alike; motion blur is the mean of the images
while the shutter is open, centered on the frame's time, so that it does not move landmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]

# Images averaged for motion blur: at 8 pixels of motion they are 2 pixels apart.
SUBFRAMES = 5
# Drawn at this multiple of the size and averaged, so that a reduced still does not alias.
OVERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Shot:
    """One state of the storyboard: which point of the still (x, y) is in the middle of the image, and how it is seen.

    `scale` is pixels of the clip per pixel of the still (0.4 and more: below that it aliases), `angle` degrees,
    `tilt_x` and `tilt_y` how much nearer the right and the lower edge are, as a fraction (a few tenths at most);
    `brightness` a factor, `noise` a standard deviation in 1/255, `shutter` the fraction of a frame's time in which the
    shutter is open, 0..1.
    """

    x: float
    y: float
    scale: float = 1.0
    angle: float = 0.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0
    brightness: float = 1.0
    noise: float = 0.0
    shutter: float = 0.0

    def towards(self, end: Shot, share: float) -> Shot:
        """Linear interpolation to another state: 0 is this one, 1 the other; also extrapolates."""
        a, b = (np.array([getattr(shot, name) for name in Shot.__slots__]) for shot in (self, end))
        return Shot(*(a + share * (b - a)).tolist())

    def camera(self, width: int, height: int) -> Matrix:
        """The 3 x 3 map from still pixels to clip pixels; integer coordinates are pixel centers."""
        turn = np.deg2rad(self.angle)
        cosine, sine = self.scale * np.cos(turn), self.scale * np.sin(turn)
        view = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        view[:2, 2] = -view[:2, :2] @ (self.x, self.y)
        tilt = np.eye(3)
        tilt[2, :2] = -self.tilt_x / width, -self.tilt_y / height
        middle = np.array([[1.0, 0.0, (width - 1) / 2], [0.0, 1.0, (height - 1) / 2], [0.0, 0.0, 1.0]])
        matrix: Matrix = middle @ tilt @ view
        return matrix


def play(
    still: Image, landmarks: Points, start: Shot, end: Shot, frames: int, size: tuple[int, int], seed: int
) -> Iterator[tuple[Image, Points]]:
    """The frames from `start` to `end`, each with its exact landmarks, K x 2 in pixels of the clip.

    `still` is H x W or H x W x C, uint8, `landmarks` K x 2 in its pixels, `size` width and height of the clip. Beyond
    its edge the still is mirrored. `seed` determines the noise. A single frame shows `start`.
    """
    random = np.random.default_rng(seed)
    for index in range(frames):
        share = index / max(1, frames - 1)
        shot = start.towards(end, share)
        pause = shot.shutter / max(1, frames - 1)
        moments = share + pause * np.linspace(-0.5, 0.5, SUBFRAMES) if pause > 0 else np.array([share])
        exposures = [_seen(still, start.towards(end, float(moment)), size) for moment in moments]
        light = np.mean(exposures, axis=0) * shot.brightness
        light += random.normal(0.0, shot.noise, light.shape) if shot.noise > 0 else 0.0
        yield np.clip(np.rint(light), 0, 255).astype(np.uint8), mapped(landmarks, shot.camera(*size))


def mapped(points: Points, matrix: Matrix) -> Points:
    """Points, K x 2, through a projective map."""
    through = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    places: Points = through[:, :2] / through[:, 2:]
    return places


def _seen(still: Image, shot: Shot, size: tuple[int, int]) -> NDArray[np.float64]:
    """The still through the camera, drawn large and averaged down."""
    # Pixel centers: 0 of the small image is (n - 1) / 2 of the large one.
    shift = (OVERSAMPLING - 1) / 2
    enlarge = np.array([[OVERSAMPLING, 0.0, shift], [0.0, OVERSAMPLING, shift], [0.0, 0.0, 1.0]])
    large = (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING)
    drawn = cv2.warpPerspective(
        still, enlarge @ shot.camera(*size), large, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.float64)
