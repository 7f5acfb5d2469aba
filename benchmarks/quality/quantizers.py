"""Does the quantizer that a decoder reports know better than the network how strongly a video is compressed?

    python -m benchmarks.quality.quantizers --data DIR [--model MODEL] [--frames N] [--folders NAME ...]
        [--json FILE] [--resume] [--markdown FILE]

DIR holds faces/, general/ and vid4/. The first N frames of each clip are reduced by 4 (BI), encoded with known settings
and decoded with FFmpeg's option export_side_data=venc_params. Three levels of compression in 0..1 are compared: the
true one (vidsr/train/codecs.py), the network's estimate, averaged over the clip as the engine does, and that of the
mean quantizer of all blocks. For MPEG-2 and MPEG-4 the quantizer is the encoder's own; for H.264 its distance from crf
is the median over the other half of the clips. "twice" is a strong and then a weak encoding: of the first one the
decoder knows nothing. "lossless" loses nothing but the resolution of the color (4:2:0), as in nearly every video. The
gains are PSNR RGB over the result with the network's own estimate, for the true level, the quantizer's, the larger of
the quantizer's and the estimate, and the larger of the quantizer's and the estimate less LOWERING.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean, median

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.quality.ledger import Figures, Ledger, known
from benchmarks.quality.real_footage import FOLDERS, Protocol, enlarged, identity, score
from benchmarks.quality.runner import clip_paths, read_truth, reduced
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.nets.layers.conditioning import QUANTITIES, smooth
from vidsr.train.codecs import compression_of, equivalent_crf
from vidsr.train.degrade import from_bytes, to_bytes
from vidsr.video.encoder import repeatable_options
from vidsr.video.roundtrip import DECODERS, SWSCALE_ACCURATE

COMPRESSION = QUANTITIES.index("compression")
# AVVideoEncParams and the AVVideoBlockParams behind it (libavutil/video_enc_params.h), on 64-bit machines.
HEADER, BLOCK = "<I4xQQii", "<iiiii"
LOWERING = 0.1  # by how much the quantizer may lower the estimate, in the last of the rules


@dataclass(frozen=True)
class Setting:
    """One or more encodings in a row, each an encoder of libavcodec with its quality number, and the family's name."""

    name: str
    family: str
    codec: str
    strengths: tuple[int, ...]

    @property
    def level(self) -> float:
        """The true compression in 0..1: that of the strongest encoding."""
        return compression_of(max(equivalent_crf(self.family, strength) for strength in self.strengths))

    def options(self, strength: int) -> dict[str, str]:
        """The encoder's options."""
        if self.family == "x264":
            return {"crf": str(strength), "preset": "veryfast"}
        return {"qmin": str(strength), "qmax": str(strength), "b": "1000000", "g": "12"}


SETTINGS = (
    Setting("H.264, lossless", "x264", "libx264", (0,)),
    *(Setting(f"H.264, crf {crf}", "x264", "libx264", (crf,)) for crf in (18, 23, 28, 33, 38)),
    *(Setting(f"MPEG-2, {q}", "mpeg2", "mpeg2video", (q,)) for q in (2, 4, 8, 16, 28)),
    *(Setting(f"MPEG-4, {q}", "mpeg4", "mpeg4", (q,)) for q in (3, 6, 12, 24)),
    *(
        Setting(f"H.264 twice, crf {first} and {last}", "x264", "libx264", (first, last))
        for first, last in ((38, 18), (38, 23), (28, 18))
    ),
)


def transcode(frames: NDArray[np.uint8], codec: str, options: dict[str, str]) -> tuple[NDArray[np.uint8], list[float]]:
    """Encodes frames N x H x W x 3 in 4:2:0; returns the decoded ones and the mean quantizers that are known."""
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
    encoder.options = repeatable_options(codec, options)
    packets = []
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", interpolation=SWSCALE_ACCURATE)
        frame.pts, frame.time_base = index, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(DECODERS.get(codec, codec), "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count, decoder.options = 1, {"export_side_data": "venc_params"}
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    images, quantizers = [], []
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            images.append(frame.reformat(format="rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray())
            if (quantizer := mean_quantizer(frame, codec)) is not None:
                quantizers.append(quantizer)
    assert len(images) == len(frames)
    return np.stack(images)[:, :height, :width], quantizers


def mean_quantizer(frame: av.VideoFrame, codec: str) -> float | None:
    """The mean quantizer of a frame's blocks: 0..51 for H.264, the encoder's 1..31 for the MPEG family.

    None where the decoder says nothing, as FFmpeg's for MPEG-2 with the last frame of a video.
    """
    content = next((bytes(data) for data in frame.side_data if data.type == Type.VIDEO_ENC_PARAMS), None)
    if content is None:
        return None
    count, offset, size, _, quantizer = struct.unpack_from(HEADER, content)
    deltas = [struct.unpack_from(BLOCK, content, offset + index * size)[4] for index in range(count)]
    found = quantizer + fmean(deltas)
    return found if codec == "libx264" else found / 2  # the MPEG decoders report twice the encoder's number


def estimate(model: str, low: Tensor) -> float:
    """The network's compression level at the end of the clip, averaged over time as in the engine."""
    network = load_network(find_card(model))
    smoothed: Tensor | None = None
    with torch.no_grad():
        for image in low:
            smoothed = smooth(network.estimator(image[None]).overall, smoothed)
    assert smoothed is not None
    return float(smoothed[0, COMPRESSION])


def measure(path: Path, setting: Setting, model: str, frames: int, ledger: Ledger) -> Figures:
    """The quantizer and the estimate of a clip under one setting; PSNR with the estimate and with the true level."""
    key = f"quantizers | {path.parent.name}/{path.stem} | {setting.name} | first {frames} frames | {identity(model)}"
    figures = ledger.get(key, ("quantizer", "estimate", "psnr", "psnr_true"))
    if figures is None:
        truth, low, quantizers = degraded(path, setting, frames)
        figures = {"quantizer": fmean(quantizers), "estimate": estimate(model, low)}
        figures["psnr"] = score(truth, enlarged(model, low, 4), Protocol())["psnr"]
        figures["psnr_true"] = psnr_told(model, truth, low, setting.level)
        ledger.put(key, figures)
        print(f"{path.stem}, {setting.name}", file=sys.stderr)
    return figures


def degraded(path: Path, setting: Setting, frames: int) -> tuple[Tensor, Tensor, list[float]]:
    """The truth, the degraded input, and the mean quantizers of its frames in the last encoding."""
    truth = read_truth(path)[:frames]
    images, quantizers = to_bytes(reduced(truth, "BI")), []
    for strength in setting.strengths:
        images, quantizers = transcode(images, setting.codec, setting.options(strength))
    return truth, from_bytes(images), quantizers


def psnr_told(model: str, truth: Tensor, low: Tensor, level: float) -> float:
    """PSNR of the result where the network is told the compression and estimates the rest."""
    psnr = score(truth, enlarged(model, low, 4, (None, None, level)), Protocol())["psnr"]
    assert psnr is not None
    return psnr


def told(path: Path, setting: Setting, level: float, model: str, frames: int, ledger: Ledger) -> float:
    """PSNR of a clip where the network is told a level, kept in the ledger."""
    key = f"quantizers | {path.parent.name}/{path.stem} | {setting.name} | first {frames} frames | {identity(model)}"
    name = f"psnr at {level:.3f}"
    figures = ledger.get(key, (name,))
    if figures is None:
        truth, low, _ = degraded(path, setting, frames)
        figures = {name: psnr_told(model, truth, low, round(level, 3))}
        ledger.put(key, figures)
    value = figures[name]
    assert value is not None
    return value


def crf_offsets(found: dict[tuple[Path, Setting], Figures], paths: Sequence[Path]) -> dict[Path, float]:
    """For every clip the median of quantizer minus crf over the lossy H.264 settings of the other half of the clips."""
    gaps: tuple[list[float], list[float]] = ([], [])
    for (path, setting), figures in found.items():
        if setting.family == "x264" and len(setting.strengths) == 1 and setting.strengths[0] > 0:
            gaps[paths.index(path) % 2].append(known(figures, "quantizer") - setting.strengths[0])
    medians = [median(each) for each in gaps]
    return {path: medians[1 - index % 2] for index, path in enumerate(paths)}


def level_of(quantizer: float, setting: Setting, offset: float) -> float:
    """The compression in 0..1 that a mean quantizer stands for."""
    crf = quantizer - offset if setting.family == "x264" else equivalent_crf(setting.family, quantizer)
    return compression_of(crf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="secnet-fast-real")
    parser.add_argument("--frames", type=int, default=9, metavar="N")
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=("faces", "general"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    ledger = Ledger(options.json, options.resume)
    paths = [path for folder in options.folders for path in clip_paths(options.data / folder)]
    if len(paths) < 2:
        parser.error("two clips are needed: the quantizers of one half are read with what the other half tells")
    model, frames = options.model, options.frames
    found = {(path, setting): measure(path, setting, model, frames, ledger) for path in paths for setting in SETTINGS}
    offsets = crf_offsets(found, paths)
    rows: list[tuple[str, ...]] = []
    groups: dict[str, list[tuple[float, ...]]] = {"H.264": [], "MPEG-2": [], "MPEG-4": []}
    for setting in SETTINGS:
        levels = np.array(
            [
                (known(found[path, setting], "estimate"),
                 level_of(known(found[path, setting], "quantizer"), setting, offsets[path]))
                for path in paths
            ]
        )  # fmt: skip
        base = [known(found[path, setting], "psnr") for path in paths]
        rules = (levels[:, 1], levels.max(1), (levels - (LOWERING, 0)).max(1))
        results = [
            [known(found[path, setting], "psnr_true") for path in paths],
            *(
                [told(path, setting, level, model, frames, ledger) for path, level in zip(paths, rule, strict=True)]
                for rule in rules
            ),
        ]
        gains = [fmean(np.subtract(result, base)) for result in results]
        errors = np.abs(levels - setting.level).mean(0)
        means = levels.mean(0)
        rows.append((setting.name, f"{setting.level:.2f}", f"{means[0]:.2f} ({errors[0]:.2f})",
                     f"{means[1]:.2f} ({errors[1]:.2f})", *(f"{gain:+.3f}" for gain in gains)))  # fmt: skip
        for group, pairs in groups.items():
            if setting.name.startswith(f"{group},"):
                pairs += [(setting.level, *pair) for pair in levels]
    columns = ("encoding", "true level", "estimate (mean error)", "quantizer's (mean error)",
               "dB if told the true level", "the quantizer's", "the larger of both",
               f"the larger, the estimate less {LOWERING}")  # fmt: skip
    text = markdown(columns, rows)
    for group, pairs in groups.items():
        if not pairs:
            continue
        matrix = np.corrcoef(np.array(pairs).T)
        text += f"\n\n{group}, correlation with the true level: {matrix[0, 1]:.3f} (estimate), "
        text += f"{matrix[0, 2]:.3f} (quantizer's)"
    if options.markdown:
        options.markdown.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
