"""Films of flashes and clicks at the same moments, slowed down as an engine would, and what another program finds."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray

from tests.support import media
from vidsr.config import InputConfig, OutputConfig
from vidsr.types import Frame
from vidsr.video.output import plan_output
from vidsr.video.reader import Reader
from vidsr.video.writer import Writer

FLASHES = (8, 21, 37, 50, 66)  # numbers of bright pictures
RATE = 48_000
PICTURES = 75


def wave_file(path: Path, sound: NDArray[Any], rate: int = RATE) -> Path:
    """16 bit; samples x channels or one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).round().astype("<i2").tobytes())
    return path


def clicks(times: Iterable[float], seconds: float, rate: int = RATE) -> NDArray[np.float64]:
    """Bursts of 1 kHz, 30 ms long, over faint noise."""
    sound = np.random.default_rng(0).normal(0, 0.001, round(seconds * rate))
    for time in times:
        begin, length = round(time * rate), round(0.03 * rate)
        burst = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(length) / rate)
        sound[begin : begin + length] += burst[: len(sound) - begin]
    return sound


def film(
    path: Path,
    codec: Sequence[str] = ("aac",),
    times: str = "N/25",
    late_sound: float = 0.0,
    sound: Path | None = None,
) -> Path:
    """A flash and a click at each of FLASHES; `times` is FFmpeg's formula for the seconds of picture N."""
    moments = [_evaluate(times, n) for n in FLASHES]
    seconds = _evaluate(times, PICTURES)
    if sound is None:
        whole = clicks(moments, seconds)
        sound = wave_file(path.with_suffix(".wav"), whole[round(late_sound * RATE) :])
    pictures = [np.full((48, 64, 3), 220 if n in FLASHES else 30, np.uint8) for n in range(PICTURES)]
    inputs = ("-itsoffset", str(late_sound), "-i", str(sound), "-map", "0:v", "-map", "1:a", "-c:a", *codec)
    pace = (
        "-vf",
        f"settb=1/12800,setpts='round(({times})/TB)'",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/12800",
    )
    return media.encode(path, pictures, (*inputs, *media.X264, *pace))


def moments(times: str = "N/25") -> list[float]:
    """When film() flashes and clicks, in seconds."""
    return [_evaluate(times, n) for n in FLASHES]


def _evaluate(times: str, number: int) -> float:
    return float(eval(times, {"N": number, "gte": lambda a, b: int(a >= b)}))


def slow_down(
    target: Path, source: Path, factor: int, config: OutputConfig | None = None, window: InputConfig | None = None
) -> Writer:
    """The film `factor` times as long: new pictures repeat the one before them, at times between exactly."""
    window = window or InputConfig()
    with Reader(source, window, torch.device("cpu")) as reader:
        info = reader.info
        plan = plan_output(target, info, (info.width, info.height), config or OutputConfig(), window, factor)
        with Writer(plan) as writer:
            for frame in _interpolated(list(reader.frames()), factor):
                writer.write(frame)
            writer.commit()
    return writer


def _interpolated(frames: list[Frame], factor: int) -> Iterable[Frame]:
    for one, two in zip(frames, [*frames[1:], None], strict=True):
        if two is None:
            yield Frame(one.image, one.pts * factor, one.time_base, one.duration * factor)
        else:
            gap = two.pts - one.pts
            yield from (Frame(one.image, one.pts * factor + n * gap, one.time_base, gap) for n in range(factor))


def decoded(path: Path, stream: str = "a:0", rate: int = RATE, channels: int = 1) -> NDArray[np.float32]:
    """The sound of a file from 0 on as the ffmpeg binary decodes it, channels x samples; gaps are silent."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-copyts", "-i", str(path), "-map", f"0:{stream}"]
    filters = ["-af", "aresample=async=1:first_pts=0", "-ar", str(rate), "-ac", str(channels), "-f", "f32le", "-"]
    done = subprocess.run([*command, *filters], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(-1, channels).T


def brightness(path: Path) -> list[tuple[float, float]]:
    """Time and mean of each picture as the ffmpeg binary decodes it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-map", "0:v:0"]
    output = ["-fps_mode", "passthrough", "-vf", "scale=1:1:flags=area", "-pix_fmt", "gray", "-f", "rawvideo", "-"]
    done = subprocess.run([*command, *output], capture_output=True, check=True)
    return list(zip(map(float, media.ffmpeg_framemd5(path).times), map(float, done.stdout), strict=True))


def flash_times(path: Path) -> list[float]:
    """When the picture becomes bright."""
    seen = brightness(path)
    return [time for (_, before), (time, now) in pairwise(seen) if before < 128 <= now]


def click_times(sound: NDArray[np.float32], rate: int = RATE) -> list[float]:
    """When it becomes loud after at least 100 ms of quiet."""
    loud = np.flatnonzero(np.abs(sound[0]) > 0.3 * np.abs(sound[0]).max())
    return [int(n) / rate for n, before in zip(loud, [-rate, *loud[:-1]], strict=True) if n - before > rate / 10]


def pitch(sound: NDArray[np.float32], rate: int = RATE) -> float:
    """The strongest frequency of one channel, in Hz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum)) * rate / len(sound)
