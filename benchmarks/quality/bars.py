"""What the models for realistic footage should reach, and what they reach: every row with its bar, met or MISSED.

    python -m benchmarks.quality.bars --data DIR --lpips FILE.pth [--json FILE] [--resume] [--only PART ...]
        [--real MODEL] [--clean MODEL] [--face MODEL] [--x2 MODEL] [--slowmo MODEL] [--rival CARD]
        [--frames N] [--markdown FILE]

DIR, the clips and the protocol are those of benchmarks.quality.real_footage, with the same file of --json; whole clips
unless --frames is given. The models are the shipped ones, or cards and checkpoints (.pt) in their place. Parts:

- crf28: gain in PSNR RGB over bicubic after H.264 at crf 28, x4, BI and BD
- crf: Vid4, BD, PSNR Y over bicubic after H.264 at crf 15, 25 and 35, beside what papers print
- lpips: LPIPS of the 9th frame, clean and after crf 28
- face: secnet-fast-face on faces after crf 28
- clean: input without degradation
- x2: speed and PSNR at twice the size; "today" is the x4 network with its result reduced, as --scale 2 does it
- noise: noise of sigma 15
- slowmo: zsm-fast-real after crf 28, all frames, over minterpolate followed by secnet-fast

Speed is the processor time of the network and of what fits its result to the size, 320 x 180 in one thread, both in
turn; the median ratio counts. In the part slowmo every second frame of a clip is the input, and PSNR Y is averaged over
frames as in benchmarks.slowmo.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch

from benchmarks.common.clips import markdown
from benchmarks.common.paper_results import rows_of
from benchmarks.quality.ledger import Figures, Ledger, known, mean
from benchmarks.quality.real_footage import (
    FOLDERS,
    Protocol,
    Row,
    enlarged,
    identity,
    measure,
    title,
)
from benchmarks.quality.runner import clip_paths, compressed, read_truth, reduced
from benchmarks.slowmo.baselines import TWO_STAGES, slow_down
from benchmarks.slowmo.runner import with_input_ends
from benchmarks.slowmo.scores import score_frames
from vidsr.errors import VidsrError
from vidsr.train.perceptual import PerceptualDistance

Models = dict[str, str]  # by role
NAMES = {"faces": "faces", "general": "fast motion", "vid4": "Vid4"}
SPEED_SIZE = (180, 320)
SPEED_FRAMES, SPEED_RUNS = 6, 5
AT_LEAST, AT_MOST = ">=", "<="


@dataclass(frozen=True)
class Bar:
    """One row: what was measured of which model, the figure as text and number, the bar, and what stands beside it."""

    what: str
    model: str
    figure: float
    bar: float
    sense: str = AT_LEAST
    digits: int = 2
    beside: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure as it is printed reaches the bar."""
        figure = round(self.figure, self.digits)
        return figure >= self.bar if self.sense == AT_LEAST else figure <= self.bar

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        sign = "+" if self.sense == AT_LEAST and self.digits == 2 else ""
        figure, bar = (f"{value:{sign}.{self.digits}f}" for value in (self.figure, self.bar))
        return self.what, self.model, figure, f"{self.sense} {bar}", "met" if self.met else "MISSED", self.beside


class Measured:
    """Mean figures of folders, measured when a row asks for them."""

    def __init__(self, data: Path, ledger: Ledger, frames: int | None, lpips: PerceptualDistance | None) -> None:
        self.data, self.ledger, self.frames, self._lpips = data, ledger, frames, lpips

    def row(self, folder: str, condition: str, models: list[str], scale: int = 4) -> Row:
        """The figures of models under one condition, LPIPS too if it can be measured: it costs little beside PSNR."""
        measures = ("psnr", "lpips") if self._lpips else ("psnr",)
        protocol = Protocol(scale, self.frames, measures=measures, lpips=self._lpips)
        return measure(self.data / folder, [condition], models, protocol, self.ledger)[condition]

    def gain(self, folder: str, condition: str, model: str, figure: str = "psnr", scale: int = 4) -> tuple[float, str]:
        """The gain of a model over bicubic in dB, and both figures in words."""
        row = self.row(folder, condition, ["bicubic", model], scale)
        base, own = known(row["bicubic"], figure), known(row[model], figure)
        return own - base, f"{own:.2f}, bicubic {base:.2f}"


def after_crf28(measured: Measured, models: Models) -> Iterator[Bar]:
    for folder, bar in (("faces", 0.80), ("general", 0.75), ("vid4", 0.60)):
        for condition, kind in (("crf28", "BI"), ("BD-crf28", "BD")):
            gain, beside = measured.gain(folder, condition, models["real"])
            yield Bar(f"crf 28, x4, {kind}, {NAMES[folder]}, PSNR RGB over bicubic", title(models["real"]), gain, bar,
                      beside=beside)  # fmt: skip


def vid4_by_crf(measured: Measured, models: Models) -> Iterator[Bar]:
    for crf, bar in ((15, 1.4), (25, 1.0), (35, 0.6)):
        gain, beside = measured.gain("vid4", f"BD-crf{crf}", models["real"], "psnr_y")
        printed = [f"{row.system} {row.psnr_y:.2f}" for row in rows_of(f"vid4-BD-crf{crf}") if row.psnr_y is not None]
        beside = f"{beside}; printed: {', '.join(printed)}"
        yield Bar(f"Vid4, BD, crf {crf}, PSNR Y over bicubic", title(models["real"]), gain, bar, beside=beside)


def near_the_eye(measured: Measured, models: Models) -> Iterator[Bar]:
    others = ["bicubic", models["clean"], *([models["rival"]] if models["rival"] else [])]
    for folder, clean, degraded in (("faces", 0.127, 0.235), ("general", 0.196, 0.295), ("vid4", 0.352, 0.480)):
        for condition, bar, words in (("crf28", degraded, "crf 28, BI"), ("clean-BI", clean, "clean, BI")):
            row = measured.row(folder, condition, [*others, models["real"]])
            beside = ", ".join(f"{title(name)} {known(row[name], 'lpips'):.3f}" for name in others)
            yield Bar(f"LPIPS, {words}, {NAMES[folder]}", title(models["real"]), known(row[models["real"]], "lpips"),
                      bar, AT_MOST, 3, beside)  # fmt: skip


def face_model(measured: Measured, models: Models) -> Iterator[Bar]:
    gain, beside = measured.gain("faces", "crf28", models["face"])
    yield Bar("crf 28, x4, BI, faces, PSNR RGB over bicubic", title(models["face"]), gain, 0.85, beside=beside)


def clean_input(measured: Measured, models: Models) -> Iterator[Bar]:
    model = models["clean"]
    for folder, condition, figure, words, bar in (
        ("vid4", "clean-BD", "psnr", "Vid4, BD, PSNR RGB", 23.85),
        ("vid4", "clean-BI", "psnr_y", "Vid4, BI, PSNR Y", 25.45),
    ):
        row = measured.row(folder, condition, ["bicubic", model])
        beside = f"bicubic {known(row['bicubic'], figure):.2f}"
        yield Bar(f"clean, {words}", title(model), known(row[model], figure), bar, beside=beside)
    for folder, bar in (("faces", 2.95), ("general", 2.0)):
        gain, beside = measured.gain(folder, "clean-BI", model)
        yield Bar(f"clean, BI, {NAMES[folder]}, PSNR RGB over bicubic", title(model), gain, bar, beside=beside)


def twice_the_size(measured: Measured, models: Models) -> Iterator[Bar]:
    new, today = models["x2"], models["clean"]
    ratio, beside = speed_ratio(new, today)
    yield Bar(f"x2, speed over {title(today)} reduced again", title(new), ratio, 3.0, beside=beside)
    gain, beside = measured.gain("faces", "clean-BI", new, scale=2)
    yield Bar("x2, clean, BI, faces, PSNR RGB over bicubic", title(new), gain, 3.3, beside=beside)
    for folder, condition, words in (
        ("general", "clean-BI", "clean, BI, fast motion"),
        ("faces", "crf28", "crf 28, BI, faces"),
        ("general", "crf28", "crf 28, BI, fast motion"),
    ):
        (own, _), (old, _) = (measured.gain(folder, condition, name, scale=2) for name in (new, today))
        beside = f"over bicubic {own:+.2f} and {old:+.2f}"
        yield Bar(f"x2, {words}, PSNR RGB over {title(today)}", title(new), own - old, 0.01, beside=beside)


def speed_ratio(new: str, today: str) -> tuple[float, str]:
    """How many times as fast as `today` the model `new` enlarges by 2, and the seconds of both for a frame."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    low = torch.rand(SPEED_FRAMES, 3, *SPEED_SIZE, generator=torch.Generator().manual_seed(0))
    spent: dict[str, list[float]] = {today: [], new: []}
    try:
        for run in range(SPEED_RUNS + 1):
            for model, seconds in spent.items():
                started = time.process_time()
                enlarged(model, low, 2)
                if run > 0:  # the first is a warm-up
                    seconds.append((time.process_time() - started) / SPEED_FRAMES)
    finally:
        torch.set_num_threads(threads)
    ratios = [a / b for a, b in zip(spent[today], spent[new], strict=True)]
    return median(ratios), f"processor seconds a frame: {median(spent[today]):.3f} and {median(spent[new]):.3f}"


def strong_noise(measured: Measured, models: Models) -> Iterator[Bar]:
    for folder in FOLDERS:
        gain, beside = measured.gain(folder, "noise-15", models["real"])
        yield Bar(f"noise, sigma 15, x4, BI, {NAMES[folder]}, PSNR RGB over bicubic", title(models["real"]), gain, 2.0,
                  beside=beside)  # fmt: skip


def slow_motion(measured: Measured, models: Models) -> Iterator[Bar]:
    for folder in FOLDERS:
        figures: dict[str, list[Figures]] = {TWO_STAGES: [], models["slowmo"]: []}
        for path in clip_paths(measured.data / folder):
            for system, clips in figures.items():
                clips.append(_slowed_down(measured, path, system))
        base, own = (known(mean(clips), "psnr_y") for clips in figures.values())
        beside = f"{own:.2f}, {TWO_STAGES} {base:.2f}"
        yield Bar(f"slow motion x2 and x4, BI, crf 28, {NAMES[folder]}, PSNR Y of all frames over {TWO_STAGES}",
                  title(models["slowmo"]), own - base, 0.4, beside=beside)  # fmt: skip


def _slowed_down(measured: Measured, path: Path, system: str) -> Figures:
    weights = f"{system} with {identity('secnet-fast')}" if system == TWO_STAGES else identity(system)
    length = "all" if measured.frames is None else f"first {measured.frames}"
    key = f"slowmo | {path.parent.name}/{path.stem} | crf28 | {length} frames | {weights}"
    figures = measured.ledger.get(key, ("psnr_y",))
    if figures is None:
        truth = with_input_ends(read_truth(path)[: measured.frames])
        low = compressed(reduced(truth[::2], "BI"), 28)
        scores = score_frames(path.stem, truth, slow_down(system, "auto", low))
        figures = {"psnr_y": fmean(scores.psnr_y)}
        measured.ledger.put(key, figures)
        print(f"slowmo {path.parent.name} {path.stem}: {title(system)}", file=sys.stderr)
    return figures


PARTS: dict[str, Callable[[Measured, dict[str, str]], Iterator[Bar]]] = {
    "crf28": after_crf28,
    "crf": vid4_by_crf,
    "lpips": near_the_eye,
    "face": face_model,
    "clean": clean_input,
    "x2": twice_the_size,
    "noise": strong_noise,
    "slowmo": slow_motion,
}
MODELS = {
    "real": "secnet-fast-real",
    "clean": "secnet-fast",
    "face": "secnet-fast-face",
    "x2": "secnet-fast-x2",
    "slowmo": "zsm-fast-real",
}


def table(bars: list[Bar]) -> str:
    """All rows, and how many are met."""
    rows = [bar.cells() for bar in bars]
    columns = ("what", "model", "measured", "bar", "result", "beside it")
    return f"{markdown(columns, rows)}\n\n{sum(bar.met for bar in bars)} of {len(bars)} met"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    for role, model in MODELS.items():
        parser.add_argument(f"--{role}", default=model, metavar="MODEL", help=f"in place of {model}")
    parser.add_argument("--rival", metavar="CARD", help="another model whose LPIPS stands beside (rival_weights.py)")
    parser.add_argument("--frames", type=int, metavar="N", help="of each clip; the bars are for whole clips")
    parser.add_argument("--lpips", type=Path, metavar="FILE.pth", help="needed for the part lpips")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="keep the figures that are in the file of --json")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    if "lpips" in options.only and options.lpips is None:
        parser.error("the part lpips needs --lpips FILE.pth; leave it out with --only")
    for folder in FOLDERS:
        clip_paths(options.data / folder)  # so that a wrong --data is reported at once
    lpips = PerceptualDistance(options.lpips) if options.lpips else None
    measured = Measured(options.data, Ledger(options.json, options.resume), options.frames, lpips)
    models = {role: getattr(options, role) for role in (*MODELS, "rival")}
    bars: list[Bar] = []
    for part in options.only:
        try:
            bars += PARTS[part](measured, models)
        except VidsrError as error:
            parser.error(str(error))
        if options.markdown:
            options.markdown.write_text(table(bars) + "\n")
    if options.frames is not None:
        print(f"The first {options.frames} frames of each clip only\n")
    print(table(bars))


if __name__ == "__main__":
    main()
