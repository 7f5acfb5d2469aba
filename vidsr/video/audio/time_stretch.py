"""Time stretching of audio at constant pitch: FFmpeg's atempo, with transients kept at their places."""

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
class Transient:
    """A sudden sound: channels x samples, beginning at sample `start`; `anchor` is the sample whose time counts."""

    start: int
    anchor: int
    samples: Samples


class TransientSplitter:
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

    def step(self, sound: Samples) -> tuple[Samples, list[Transient]]:
        """The next samples; what comes out lags a little."""
        return self._split(np.concatenate([self._rest, sound], axis=1), False)

    def flush(self) -> tuple[Samples, list[Transient]]:
        """What is left at the end."""
        return self._split(self._rest, True)

    def _split(self, sound: Samples, is_end: bool) -> tuple[Samples, list[Transient]]:
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

    def _grains(self, sudden: Samples, edges: NDArray[np.float64]) -> list[Transient]:
        done: list[Transient] = []
        for number in range(len(edges) - 1):
            if edges[number] < 1 or edges[number + 1] < 1:
                self._open.append(sudden[:, number * self.hop : (number + 1) * self.hop])
            if self._open and (edges[number + 1] >= 1 or len(self._open) >= LONGEST_HOPS):
                done += self._close(self._position + (number + 1) * self.hop)
        self._position += sudden.shape[1]
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


# One atempo at 0.5 blurs a click and plays it up to 56 ms early, three of them up to 300 ms (shorter windows lose deep
# tones). So clicks go past the filter, and nothing may sound where the source was silent.
# This much silence before the sound, in windows of the filter, centres what is left between tones and noise.
CENTRING = 0.19
# And this much after it: the filter drops or repeats a part of its last window.
TRAILING = 2.0
# So much sound, in windows, goes into the filter at once to begin with: in small pieces it now and then repeats some
# samples within its first windows.
AT_ONCE = 3.0
PIECES_PER_SECOND = 24
# How long the stretched sound may ring on, in hops of the source, and how much louder than the source it may be.
RINGING_HOPS = 20
LOUDER = 2.0


class TimeStretcher:
    """Makes sound (channels x samples, float) `factor` times longer, 2, 4 or 8. One instance for each track.

    Sample n of the source is sample `factor` * n of the result; the result has `factor` times as many samples.
    `layout` is FFmpeg's name of the channels.
    """

    def __init__(self, rate: int, layout: str, factor: int) -> None:
        self._rate, self._layout, self._factor = rate, layout, factor
        self._channels = channels = av.AudioLayout(layout).nb_channels
        self._transients = TransientSplitter(rate, channels)
        self._hop = self._transients.hop
        self._graph = self._new_graph()
        self._taken = self._fed = self._given = 0
        self._window = 1 << (rate // PIECES_PER_SECOND - 1).bit_length()
        self._early: list[Samples] | None = []  # what waits for more, to begin with
        self._feed_silence(CENTRING)
        self._energies = np.zeros(RINGING_HOPS)
        self._limits: list[float] = []
        self._unmeasured = np.zeros((channels, 0), np.float32)
        self._stretched = np.zeros((channels, 0), np.float32)
        self._gain = 1.0
        self._grains: list[tuple[int, Samples]] = []  # with the sample of the result where each begins

    def step(self, sound: Samples) -> Samples:
        """The next samples; what comes out lags."""
        self._taken += sound.shape[1]
        steady, grains = self._transients.step(sound)
        self._advance(steady, grains)
        return self._ready(max(0, min(len(self._limits), self._stretched.shape[1] // self._block) - 1))

    def flush(self) -> Samples:
        """The rest."""
        steady, grains = self._transients.flush()
        self._advance(np.pad(steady, ((0, 0), (0, -self._taken % self._hop))), grains)
        self._feed_silence(TRAILING)
        self._feed_early()
        self._graph.push(None)
        self._pull()
        rest = self._taken * self._factor - self._given
        missing = max(0, len(self._limits) * self._block - self._stretched.shape[1])
        self._stretched = np.pad(self._stretched, ((0, 0), (0, missing)))
        return self._ready(len(self._limits))[:, :rest]

    @property
    def _block(self) -> int:
        """What a hop of the source becomes."""
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

    def _advance(self, steady: Samples, grains: list[Transient]) -> None:
        for grain in grains:
            place = self._factor * grain.anchor - (grain.anchor - grain.start)
            self._grains.append((max(0, place), grain.samples))
        self._measure(steady)
        self._feed(steady)
        self._pull()

    def _feed(self, sound: Samples) -> None:
        if self._early is not None:
            self._early.append(sound)
            if sum(part.shape[1] for part in self._early) >= AT_ONCE * self._window:
                self._feed_early()
        elif sound.shape[1]:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._fed, Fraction(1, self._rate)
            self._graph.push(frame)
            self._fed += sound.shape[1]

    def _feed_early(self) -> None:
        early, self._early = self._early, None
        if early:
            self._feed(np.concatenate(early, axis=1))

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

    def _measure(self, steady: Samples) -> None:
        """Finds how loud each hop of the source, and so of the result, may be: as the hop or what came just before."""
        sound = np.concatenate([self._unmeasured, steady], axis=1)
        whole = sound.shape[1] // self._hop
        self._unmeasured = sound[:, whole * self._hop :]
        energies = np.concatenate([self._energies, _energies(sound, self._hop, whole)])
        self._energies = energies[whole:]
        if whole:
            windows = np.lib.stride_tricks.sliding_window_view(energies, RINGING_HOPS + 1)
            self._limits += [LOUDER * float(limit) for limit in windows.max(axis=1)]

    def _ready(self, whole: int) -> Samples:
        """So many blocks of the stretched sound, no louder than they may be, with the grains added."""
        known = min(len(self._limits), self._stretched.shape[1] // self._block)
        energies = _energies(self._stretched, self._block, known)
        gains = np.sqrt(np.minimum(1, np.array(self._limits[:known]) / np.maximum(energies, 1e-20)))
        edges = np.minimum(np.concatenate([[self._gain], gains]), np.concatenate([gains, [1.0]]))[: whole + 1]
        ramp = np.arange(self._block) / self._block
        curve = edges[:-1, None] + np.diff(edges)[:, None] * ramp
        sound: Samples = self._stretched[:, : whole * self._block] * curve.reshape(-1).astype(np.float32)
        self._stretched = self._stretched[:, whole * self._block :]
        del self._limits[:whole]
        if whole:
            self._gain = float(gains[whole - 1])
        self._add_grains(sound)
        return sound

    def _add_grains(self, sound: Samples) -> None:
        """Adds in place what belongs to the next samples, and keeps the rest for later ones."""
        count = sound.shape[1]
        kept: list[tuple[int, Samples]] = []
        for place, samples in self._grains:
            begin = place - self._given
            fits = max(0, min(samples.shape[1], count - begin))
            sound[:, begin : begin + fits] += samples[:, :fits]
            if fits < samples.shape[1]:
                kept.append((place + fits, samples[:, fits:]))
        self._grains = kept
        self._given += count


def _energies(sound: Samples, size: int, count: int) -> NDArray[np.float64]:
    """Mean square of each of the first `count` pieces of `size` samples."""
    pieces = sound[:, : count * size].reshape(len(sound), count, size)
    return np.asarray(np.square(pieces, dtype=np.float64).mean((0, 2)))
