"""Sudden sounds cut out of a steady rest, so that a stretch need not smear them. Stretches nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

HOPS_PER_SECOND = 800
# A sound is steady when it has lasted about this long; the mean of the fourth roots hardly sees what is shorter.
MEMORY_SECONDS = 0.025
ROOT = 4
# How far above the steady level an energy may be: the pulses of a deep voice stay below 15 dB, a click is far above.
MARGIN = 32.0
FLOOR = 1e-8
# A grain is anchored where it first comes this near to its peak, and ends after so many hops at the latest.
ANCHOR = 0.3
LONGEST_HOPS = 32


@dataclass(frozen=True, slots=True)
class Grain:
    """A sudden sound: channels x samples, beginning at sample `start`; `anchor` is the sample whose time counts."""

    start: int
    anchor: int
    samples: Samples


class Transients:
    """Splits sound (channels x samples, float) into steady sound of the same length and grains; their sum is the sound.

    The steady part of a sound that begins fades in within about 12 ms; what is missing of it is a grain.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self.hop = max(8, round(rate / HOPS_PER_SECOND))
        self._history = np.zeros(max(2, round(MEMORY_SECONDS * HOPS_PER_SECOND)) - 1)
        self._before = np.zeros((channels, 1), np.float32)
        self._rest = np.zeros((channels, 0), np.float32)
        self._gain = 1.0  # of the last hop that was given out
        self._position = 0
        self._open: list[Samples] = []

    def step(self, sound: Samples) -> tuple[Samples, list[Grain]]:
        """The next samples; what comes out lags a little."""
        return self._split(np.concatenate([self._rest, sound], axis=1), False)

    def flush(self) -> tuple[Samples, list[Grain]]:
        """What is left at the end."""
        return self._split(self._rest, True)

    def _split(self, sound: Samples, is_end: bool) -> tuple[Samples, list[Grain]]:
        hop, channels = self.hop, len(sound)
        # One more hop is kept back: a hop's fade depends on the next one.
        whole = sound.shape[1] // hop if not is_end else -(-sound.shape[1] // hop)
        ready = whole if is_end else whole - 1
        if ready <= 0:
            self._rest = sound
            return sound[:, :0], []
        length = min(ready * hop, sound.shape[1])
        padded = np.zeros((channels, whole * hop), np.float32)
        padded[:, : min(sound.shape[1], whole * hop)] = sound[:, : whole * hop]
        slopes = np.diff(padded, axis=1, prepend=self._before)  # rather the highs, where clicks are
        energies = np.square(slopes).reshape(channels, whole, hop).mean((0, 2), dtype=np.float64)
        gains = self._gains(energies)
        edges = np.minimum(np.concatenate([[self._gain], gains]), np.concatenate([gains, [1.0]]))[: ready + 1]
        ramp = np.arange(hop) / hop
        curve = (edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * ramp).reshape(-1).astype(np.float32)
        steady = padded[:, : ready * hop] * curve
        sudden = padded[:, : ready * hop] - steady
        grains = self._grains(sudden, edges)
        if is_end:
            grains += self._close(self._position)
        self._history = np.concatenate([self._history, energies[:ready]])[-len(self._history) :]
        self._gain = float(gains[ready - 1])
        self._before = padded[:, ready * hop - 1 : ready * hop]
        self._rest = sound[:, length:]
        return steady[:, :length], grains

    def _gains(self, energies: NDArray[np.float64]) -> NDArray[np.float64]:
        """What may stay of each hop: as much as was there for some time."""
        memory = len(self._history) + 1
        roots = np.concatenate([self._history, energies]) ** (1 / ROOT)
        sums = np.cumsum(np.concatenate([[0.0], roots]))
        steady = ((sums[memory:] - sums[:-memory]) / memory).clip(0) ** ROOT
        return np.asarray(np.sqrt(np.minimum(1, (MARGIN * steady + FLOOR) / np.maximum(energies, FLOOR))))

    def _grains(self, sudden: Samples, edges: NDArray[np.float64]) -> list[Grain]:
        done: list[Grain] = []
        for number in range(len(edges) - 1):
            if edges[number] < 1 or edges[number + 1] < 1:
                self._open.append(sudden[:, number * self.hop : (number + 1) * self.hop])
            if self._open and (edges[number + 1] >= 1 or len(self._open) >= LONGEST_HOPS):
                done += self._close(self._position + (number + 1) * self.hop)
        self._position += sudden.shape[1]
        return done

    def _close(self, end: int) -> list[Grain]:
        if not self._open:
            return []
        samples = np.concatenate(self._open, axis=1)
        start = end - samples.shape[1]
        heights = np.abs(samples).max(axis=0)
        anchor = int(np.argmax(heights >= ANCHOR * heights.max()))
        self._open = []
        return [Grain(start, start + anchor, samples)]
