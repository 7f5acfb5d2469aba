"""Clips with simultaneous flashes and clicks, slowed down without an engine and measured with the ffmpeg binary."""

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

FLASHES = (8, 21, 37, 50, 66)  # numbers of the bright frames
RATE = 48_000  # audio samples per second
FRAMES = 75


def wave_file(path: Path, audio: NDArray[Any], rate: int = RATE) -> Path:
    """Writes 16-bit audio; samples x channels, or samples of one channel, in -1..1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if audio.ndim == 1 else audio.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((audio * 32767).round().astype("<i2").tobytes())
    return path


def clicks(times: Iterable[float], seconds: float, rate: int = RATE) -> NDArray[np.float64]:
    """Mono audio with bursts of 1 kHz, 30 ms long, at these times in seconds, over faint noise."""
    audio = np.random.default_rng(0).normal(0, 0.001, round(seconds * rate))
    for time in times:
        begin, length = round(time * rate), round(0.03 * rate)
        burst = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(length) / rate)
        audio[begin : begin + length] += burst[: len(audio) - begin]
    return audio


def video(
    path: Path,
    codec: Sequence[str] = ("aac",),
    times: str = "N/25",
    late_audio: float = 0.0,
    audio: Path | None = None,
) -> Path:
    """A video with a flash and a click at each of FLASHES; `times` is FFmpeg's formula for the time of frame N in s."""
    moments = [_evaluate(times, n) for n in FLASHES]
    seconds = _evaluate(times, FRAMES)
    if audio is None:
        whole = clicks(moments, seconds)
        audio = wave_file(path.with_suffix(".wav"), whole[round(late_audio * RATE) :])
    images = [np.full((48, 64, 3), 220 if n in FLASHES else 30, np.uint8) for n in range(FRAMES)]
    inputs = ("-itsoffset", str(late_audio), "-i", str(audio), "-map", "0:v", "-map", "1:a", "-c:a", *codec)
    pace = (
        "-vf",
        f"settb=1/12800,setpts='round(({times})/TB)'",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/12800",
    )
    return media.encode(path, images, (*inputs, *media.X264, *pace))


def moments(times: str = "N/25") -> list[float]:
    """The times of the flashes and clicks of video(), in seconds."""
    return [_evaluate(times, n) for n in FLASHES]


def _evaluate(times: str, number: int) -> float:
    return float(eval(times, {"N": number, "gte": lambda a, b: int(a >= b)}))


def slow_down(
    target: Path, source: Path, factor: int, config: OutputConfig | None = None, trim: InputConfig | None = None
) -> Writer:
    """Writes `source` `factor` times as long: interpolated frames repeat the previous one, at evenly spaced times."""
    trim = trim or InputConfig()
    with Reader(source, trim, torch.device("cpu")) as reader:
        info = reader.info
        plan = plan_output(target, source, info, (info.width, info.height), config or OutputConfig(), trim, factor)
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
    """The audio of a file from 0 on as the ffmpeg binary decodes it, channels x samples; gaps are silent."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-copyts", "-i", str(path), "-map", f"0:{stream}"]
    filters = ["-af", "aresample=async=1:first_pts=0", "-ar", str(rate), "-ac", str(channels), "-f", "f32le", "-"]
    done = subprocess.run([*command, *filters], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(-1, channels).T


def brightness(path: Path) -> list[tuple[float, float]]:
    """Time in seconds and mean of 0..255 of each frame, as the ffmpeg binary decodes it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-map", "0:v:0"]
    output = ["-fps_mode", "passthrough", "-vf", "scale=1:1:flags=area", "-pix_fmt", "gray", "-f", "rawvideo", "-"]
    done = subprocess.run([*command, *output], capture_output=True, check=True)
    return list(zip(map(float, media.ffmpeg_framemd5(path).times), map(float, done.stdout), strict=True))


def flash_times(path: Path) -> list[float]:
    """Times in seconds at which the video becomes bright."""
    seen = brightness(path)
    return [time for (_, before), (time, now) in pairwise(seen) if before < 128 <= now]


def click_times(audio: NDArray[np.float32], rate: int = RATE) -> list[float]:
    """Times in seconds at which the audio becomes loud after at least 100 ms of quiet."""
    loud = np.flatnonzero(np.abs(audio[0]) > 0.3 * np.abs(audio[0]).max())
    return [int(n) / rate for n, before in zip(loud, [-rate, *loud[:-1]], strict=True) if n - before > rate / 10]


def pitch(audio: NDArray[np.float32], rate: int = RATE) -> float:
    """The strongest frequency of one channel, in Hz."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum)) * rate / len(audio)
