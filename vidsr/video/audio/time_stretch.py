"""Time stretching of audio at constant pitch: FFmpeg's atempo for sustained sound, transients passed around it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

Samples = NDArray[np.float32]

HOPS_PER_SECOND = 800
# Sound counts as sustained once it has lasted about this long; the mean of fourth roots hardly reacts to less.
HISTORY_SECONDS = 0.025
ROOT = 4
# Allowed ratio of a hop's energy to the sustained level (15 dB): the pulses of a deep voice stay below it, clicks are
# far above.
MARGIN = 32.0
FLOOR = 1e-8
# A transient is anchored where it first reaches this fraction of its peak, and lasts MAX_HOPS hops at most.
ANCHOR = 0.3
MAX_HOPS = 32


@dataclass(frozen=True, slots=True)
class Transient:
    """An onset or click, channels x samples, that begins at sample `start`.

    `anchor` is the sample that keeps its time when the audio is stretched.
    """

    start: int
    anchor: int
    samples: Samples


class TransientSplitter:
    """Splits audio (channels x samples, float32) into a sustained part of the same length and transients.

    The sum of both is the input. Where a sound begins, the sustained part fades in within about 12 ms, and the rest is
    a transient.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self.hop = max(8, round(rate / HOPS_PER_SECOND))
        self._history = np.zeros(max(2, round(HISTORY_SECONDS * HOPS_PER_SECOND)) - 1)
        self._before = np.zeros((channels, 1), np.float32)
        self._rest = np.zeros((channels, 0), np.float32)
        self._gain = 1.0  # of the last hop returned
        self._position = 0
        self._open: list[Samples] = []

    def step(self, samples: Samples) -> tuple[Samples, list[Transient]]:
        """Takes the next samples; returns the sustained part and the transients found so far, with a short lag."""
        return self._split(np.concatenate([self._rest, samples], axis=1), False)

    def flush(self) -> tuple[Samples, list[Transient]]:
        """Returns the rest."""
        return self._split(self._rest, True)

    def _split(self, samples: Samples, is_end: bool) -> tuple[Samples, list[Transient]]:
        hop, channels = self.hop, len(samples)
        # The last hop is held back, because its fade depends on the next one.
        whole = samples.shape[1] // hop if not is_end else -(-samples.shape[1] // hop)
        ready = whole if is_end else whole - 1
        if ready <= 0:
            self._rest = samples
            return samples[:, :0], []
        length = min(ready * hop, samples.shape[1])
        padded = np.zeros((channels, whole * hop), np.float32)
        padded[:, : min(samples.shape[1], whole * hop)] = samples[:, : whole * hop]
        slopes = np.diff(padded, axis=1, prepend=self._before)  # emphasizes high frequencies, where clicks are
        energies = np.square(slopes).reshape(channels, whole, hop).mean((0, 2), dtype=np.float64)
        gains = self._gains(energies)
        edges = np.minimum(np.concatenate([[self._gain], gains]), np.concatenate([gains, [1.0]]))[: ready + 1]
        ramp = np.arange(hop) / hop
        curve = (edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * ramp).reshape(-1).astype(np.float32)
        sustained = padded[:, : ready * hop] * curve
        residual = padded[:, : ready * hop] - sustained
        transients = self._collect(residual, edges)
        if is_end:
            transients += self._close(self._position)
        self._history = np.concatenate([self._history, energies[:ready]])[-len(self._history) :]
        self._gain = float(gains[ready - 1])
        self._before = padded[:, ready * hop - 1 : ready * hop]
        self._rest = samples[:, length:]
        return sustained[:, :length], transients

    def _gains(self, energies: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gain of each hop in the sustained part: it limits the hop's energy to the level of the recent past."""
        span = len(self._history) + 1
        roots = np.concatenate([self._history, energies]) ** (1 / ROOT)
        sums = np.cumsum(np.concatenate([[0.0], roots]))
        sustained = ((sums[span:] - sums[:-span]) / span).clip(0) ** ROOT
        return np.asarray(np.sqrt(np.minimum(1, (MARGIN * sustained + FLOOR) / np.maximum(energies, FLOOR))))

    def _collect(self, residual: Samples, edges: NDArray[np.float64]) -> list[Transient]:
        done: list[Transient] = []
        for number in range(len(edges) - 1):
            if edges[number] < 1 or edges[number + 1] < 1:
                self._open.append(residual[:, number * self.hop : (number + 1) * self.hop])
            if self._open and (edges[number + 1] >= 1 or len(self._open) >= MAX_HOPS):
                done += self._close(self._position + (number + 1) * self.hop)
        self._position += residual.shape[1]
        return done

    def _close(self, end: int) -> list[Transient]:
        if not self._open:
            return []
        samples = np.concatenate(self._open, axis=1)
        start = end - samples.shape[1]
        heights = np.abs(samples).max(axis=0)
        anchor = int(np.argmax(heights >= ANCHOR * heights.max()))
        self._open = []
        return [Transient(start, start + anchor, samples)]


# One atempo at 0.5 blurs a click and plays it up to 56 ms early, three in a row up to 300 ms. Shorter filter windows
# would lose deep tones. So transients bypass the filter, and its output is silenced where the source was silent.
# Silence fed before the audio, in filter windows: it centers the remaining timing error between tones and noise.
CENTERING = 0.19
# Silence fed after the audio, in filter windows: the filter drops or repeats part of its last window.
TRAILING = 2.0
# Audio that is collected and fed to the filter in one go at the start, in filter windows: given small blocks, the
# filter sometimes repeats samples within its first windows.
PREROLL = 3.0
WINDOWS_PER_SECOND = 24
# How long the stretched audio may ring on, in hops of the source, and its largest energy relative to the source.
RINGING_HOPS = 20
MAX_ENERGY_RATIO = 2.0


class TimeStretcher:
    """Makes one audio stream (channels x samples, float32) 2, 4 or 8 (`factor`) times as long at constant pitch.

    Sample n of the source becomes sample `factor` * n of the result, which has exactly `factor` times as many samples.
    `layout` is FFmpeg's name of the channel layout.
    """

    def __init__(self, rate: int, layout: str, factor: int) -> None:
        self._rate, self._layout, self._factor = rate, layout, factor
        self._channels = channels = av.AudioLayout(layout).nb_channels
        self._splitter = TransientSplitter(rate, channels)
        self._hop = self._splitter.hop
        self._graph = self._new_graph()
        self._received = self._fed = self._returned = 0
        self._window = 1 << (rate // WINDOWS_PER_SECOND - 1).bit_length()
        self._preroll: list[Samples] | None = []  # None once it has been fed
        self._feed_silence(CENTERING)
        self._energies = np.zeros(RINGING_HOPS)
        self._limits: list[float] = []
        self._unmeasured = np.zeros((channels, 0), np.float32)
        self._stretched = np.zeros((channels, 0), np.float32)
        self._gain = 1.0
        self._scheduled: list[tuple[int, Samples]] = []  # (first sample in the result, samples)

    def step(self, samples: Samples) -> Samples:
        """Takes the next samples and returns the stretched samples that are complete; they lag behind the input."""
        self._received += samples.shape[1]
        sustained, transients = self._splitter.step(samples)
        self._advance(sustained, transients)
        return self._ready(max(0, min(len(self._limits), self._stretched.shape[1] // self._block) - 1))

    def flush(self) -> Samples:
        """Returns the rest."""
        sustained, transients = self._splitter.flush()
        self._advance(np.pad(sustained, ((0, 0), (0, -self._received % self._hop))), transients)
        self._feed_silence(TRAILING)
        self._feed_preroll()
        self._graph.push(None)
        self._pull()
        rest = self._received * self._factor - self._returned
        missing = max(0, len(self._limits) * self._block - self._stretched.shape[1])
        self._stretched = np.pad(self._stretched, ((0, 0), (0, missing)))
        return self._ready(len(self._limits))[:, :rest]

    @property
    def _block(self) -> int:
        """Length of one hop of the source in the result, in samples."""
        return self._hop * self._factor

    def _new_graph(self) -> Graph:
        graph = Graph()
        source = graph.add_abuffer(
            sample_rate=self._rate, format="fltp", layout=self._layout, time_base=Fraction(1, self._rate)
        )
        halves = [graph.add("atempo", "0.5") for _ in range(self._factor.bit_length() - 1)]
        planes = graph.add("aformat", "sample_fmts=fltp")
        graph.link_nodes(source, *halves, planes, graph.add("abuffersink")).configure()
        return graph

    def _advance(self, sustained: Samples, transients: list[Transient]) -> None:
        for transient in transients:
            position = self._factor * transient.anchor - (transient.anchor - transient.start)
            self._scheduled.append((max(0, position), transient.samples))
        self._measure(sustained)
        self._feed(sustained)
        self._pull()

    def _feed(self, samples: Samples) -> None:
        if self._preroll is not None:
            self._preroll.append(samples)
            if sum(part.shape[1] for part in self._preroll) >= PREROLL * self._window:
                self._feed_preroll()
        elif samples.shape[1]:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._fed, Fraction(1, self._rate)
            self._graph.push(frame)
            self._fed += samples.shape[1]

    def _feed_preroll(self) -> None:
        preroll, self._preroll = self._preroll, None
        if preroll:
            self._feed(np.concatenate(preroll, axis=1))

    def _feed_silence(self, windows: float) -> None:
        self._feed(np.zeros((self._channels, round(windows * self._window)), np.float32))

    def _pull(self) -> None:
        parts = [self._stretched]
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                break
            parts.append(cast(Samples, frame.to_ndarray()))
        self._stretched = np.concatenate(parts, axis=1)

    def _measure(self, sustained: Samples) -> None:
        """Appends each hop's energy limit in the result, from the loudest of the hop and the RINGING_HOPS before it."""
        samples = np.concatenate([self._unmeasured, sustained], axis=1)
        whole = samples.shape[1] // self._hop
        self._unmeasured = samples[:, whole * self._hop :]
        energies = np.concatenate([self._energies, _energies(samples, self._hop, whole)])
        self._energies = energies[whole:]
        if whole:
            windows = np.lib.stride_tricks.sliding_window_view(energies, RINGING_HOPS + 1)
            self._limits += [MAX_ENERGY_RATIO * float(limit) for limit in windows.max(axis=1)]

    def _ready(self, whole: int) -> Samples:
        """Returns `whole` blocks of the stretched audio, reduced to their energy limits, with transients added."""
        known = min(len(self._limits), self._stretched.shape[1] // self._block)
        energies = _energies(self._stretched, self._block, known)
        gains = np.sqrt(np.minimum(1, np.array(self._limits[:known]) / np.maximum(energies, 1e-20)))
        edges = np.minimum(np.concatenate([[self._gain], gains]), np.concatenate([gains, [1.0]]))[: whole + 1]
        ramp = np.arange(self._block) / self._block
        curve = edges[:-1, None] + np.diff(edges)[:, None] * ramp
        samples: Samples = self._stretched[:, : whole * self._block] * curve.reshape(-1).astype(np.float32)
        self._stretched = self._stretched[:, whole * self._block :]
        del self._limits[:whole]
        if whole:
            self._gain = float(gains[whole - 1])
        self._add_transients(samples)
        return samples

    def _add_transients(self, block: Samples) -> None:
        """Adds to `block`, in place, the transients that overlap it, and keeps the rest of them for later blocks."""
        count = block.shape[1]
        kept: list[tuple[int, Samples]] = []
        for position, samples in self._scheduled:
            begin = position - self._returned
            fits = max(0, min(samples.shape[1], count - begin))
            block[:, begin : begin + fits] += samples[:, :fits]
            if fits < samples.shape[1]:
                kept.append((position + fits, samples[:, fits:]))
        self._scheduled = kept
        self._returned += count


def _energies(samples: Samples, size: int, count: int) -> NDArray[np.float64]:
    """Mean square of each of the first `count` blocks of `size` samples, over all channels."""
    blocks = samples[:, : count * size].reshape(len(samples), count, size)
    return np.asarray(np.square(blocks, dtype=np.float64).mean((0, 2)))
