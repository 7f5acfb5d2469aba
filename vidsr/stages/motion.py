"""Where a face will be: a Kalman filter with constant velocity for one face. Which detection is whose is tracking's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vidsr.stages.detections import Array

# In units of the face's side, and frames. YuNet's boxes jitter by 2 to 3 % of the side; a head speeds up by a few
# percent of its side a frame, and may come into view at a fifth of it.
MEASUREMENT = 0.04
ACCELERATION = 0.03
FIRST_SPEED = 0.2
# The share of a new detection in size and inner places, which have no velocity: an extrapolated size could vanish.
SHAPE_GAIN = 0.5


@dataclass(frozen=True, slots=True)
class Motion:
    """A face's `middle` and `velocity` in pixels (a frame), with one 2 x 2 covariance, in sides, for both axes.

    `size` is width and height in pixels; `inner` the landmarks from the middle, in units of the size.
    """

    middle: Array
    velocity: Array
    covariance: Array
    size: Array
    inner: Array

    @classmethod
    def start(cls, box: Array, landmarks: Array) -> Motion:
        """A face seen for the first time, at rest."""
        middle, size, inner = _parts(box, landmarks)
        return cls(middle, np.zeros(2), np.diag([MEASUREMENT**2, FIRST_SPEED**2]), size, inner)

    @property
    def box(self) -> Array:
        """Left, top, width, height."""
        return np.concatenate([self.middle - self.size / 2, self.size])

    @property
    def landmarks(self) -> Array:
        """Five points, 5 x 2."""
        return self.middle + self.inner * self.size

    def predicted(self, frames: int) -> Motion:
        """So many frames later, with nothing seen."""
        step = np.array([[1.0, frames], [0.0, 1.0]])
        noise = ACCELERATION**2 * np.array([[frames**3 / 3, frames**2 / 2], [frames**2 / 2, frames]])
        return replace(
            self, middle=self.middle + frames * self.velocity, covariance=step @ self.covariance @ step.T + noise
        )

    def corrected(self, box: Array, landmarks: Array) -> Motion:
        """The same moment with a detection.

        A box smaller than expected may be what is left of a covered face, whose middle stays behind: its middle counts
        only as far as it cannot be that. Otherwise a face would lose its way just before it is hidden.
        """
        middle, size, inner = _parts(box, landmarks)
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + MEASUREMENT**2)
        covered = np.maximum(0.0, self.size - size) / 2
        error = middle - self.middle
        error = np.sign(error) * np.maximum(0.0, np.abs(error) - covered)
        return Motion(
            self.middle + gain[0] * error,
            self.velocity + gain[1] * error,
            self.covariance - np.outer(gain, self.covariance[0]),
            self.size + SHAPE_GAIN * (size - self.size),
            self.inner + SHAPE_GAIN * (inner - self.inner),
        )


def _parts(box: Array, landmarks: Array) -> tuple[Array, Array, Array]:
    size = box[2:]
    middle = box[:2] + size / 2
    return middle, size, (landmarks - middle) / size
