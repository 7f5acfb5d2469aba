"""What is particular about each encoder: its quality scale, its presets, its oddities. A table, nothing more."""

from __future__ import annotations

from dataclasses import dataclass

X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True, slots=True)
class Traits:
    """How an encoder is told what vidsr's --crf and --preset say.

    `quality` is the encoder's option for crf, "quantiser" for the qmin and qmax of FFmpeg, None for none. `presets`
    empty leaves the check to the encoder. `joined_options` hold lists "a=1:b=2"; the user's part is appended to ours.
    `words` lists what an option takes where the encoder itself would print to the terminal about anything else.
    """

    quality: str | None = None
    range: tuple[int, int] = (0, 51)
    default: float = 16
    preset: str | None = None
    presets: tuple[str, ...] = ()
    default_preset: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    joined_options: tuple[str, ...] = ()
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()
    smallest: int = 1
    hardware: bool = False


_X264_TUNES = ("film", "animation", "grain", "stillimage", "psnr", "ssim", "fastdecode", "zerolatency")
_X264_PROFILES = ("baseline", "main", "high", "high10", "high422", "high444")
# At crf 16 "faster" takes 0.53 to 0.64 of the time of "medium" for files of 0.97 to 1.01 of the size and at
# most 0.23 dB less at 46 dB and above (four clips at 1280x720), and the cores are wanted elsewhere.
_X264 = Traits(
    "crf",
    (0, 51),
    16,
    "preset",
    X26X_PRESETS,
    "faster",
    joined_options=("x264-params", "x264opts"),
    words=(("tune", _X264_TUNES), ("profile", _X264_PROFILES)),
)
_NUMBERS = tuple(str(n) for n in range(14))
_QUANTISER = Traits("quantiser", (1, 31), 2)
_VP9 = Traits("crf", (0, 63), 18, "cpu-used", default_preset="4", options=(("b", "0"), ("row-mt", "1")))
_VP8 = Traits("crf", (4, 63), 8, "cpu-used", default_preset="4", options=(("b", "100M"),))  # constrained quality only
_NVENC_PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7", "slow", "medium", "fast")
_NVENC = Traits(
    "cq",
    (0, 51),
    18,
    "preset",
    presets=_NVENC_PRESETS,
    default_preset="p5",
    options=(("rc", "vbr"), ("b", "0")),
    hardware=True,
)

TRAITS: dict[str, Traits] = {
    "libx264": _X264,
    "libx264rgb": _X264,
    "libx265": Traits(
        "crf",
        (0, 51),
        16,
        "preset",
        X26X_PRESETS,
        "medium",
        options=(("x265-params", "log-level=none"),),  # it prints on its own
        joined_options=("x265-params",),
    ),
    # 1x1 crashes the process inside SVT-AV1 4.1; below 4 it refuses.
    "libsvtav1": Traits("crf", (1, 63), 20, "preset", _NUMBERS, "6", joined_options=("svtav1-params",), smallest=4),
    "libvpx-vp9": _VP9,
    "libvpx": _VP8,
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
    "mpeg4": _QUANTISER,
    "mpeg2video": _QUANTISER,
    "mpeg1video": _QUANTISER,
    "mjpeg": _QUANTISER,
    "prores_ks": Traits(),
}
