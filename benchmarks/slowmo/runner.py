"""The space-time table: twice the frames and four times the size, by two-stage baselines and every shipped zsm model.

    python -m benchmarks.slowmo --data DIR [--systems NAME ...] [--sets SET ...] [--precision P]
                                        [--markdown FILE] [--json FILE] [--reuse FILE] [--plot FILE.png]
                                        [--sheets FOLDER] [--write-card]

DIR holds vid4/, general/ and faces/ with ground-truth clips. A set is a folder and a degradation: BI or BD, or BI and
one of benchmarks/quality/conditions.py, such as vid4-BI-crf28, vid4-BI-noise-15 or vid4-BI-jpeg-40; in the table -x2 is
appended. The 1st, 3rd ... frame of a clip is the input, reduced by 4 and rounded to 8 bits; in an encoder these frames
follow each other. All frames up to the last input frame are compared, the input frames ("existing") and those between
them ("synthetic") also separately. PSNR and SSIM are measured as by the authors' program: of each frame, over Y,
including the border, averaged over frames, then over clips (scores.py). baselines.py holds the baselines. "pulsing" is
the difference of the mean color of interpolated frames from that of their neighbors, in 1/255, for the worst clip:
above 0.5 it is visible. The truth has some of it too.

--reuse FILE takes figures from an earlier --json FILE instead of measuring them again. --sheets writes consecutive
results of each measured clip as one PNG. The output files are rewritten after each set.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from benchmarks.quality.baselines import SCALE, shipped_models
from benchmarks.quality.conditions import CONDITIONS
from benchmarks.quality.runner import (
    Setting,
    card_command,
    clip_paths,
    compressed,
    parse_setting,
    read_truth,
    reduced,
    table_parser,
)
from benchmarks.slowmo.baselines import BASELINES, BLEND, TWO_STAGES_DEGRADED, slow_down
from benchmarks.slowmo.scoreboard import Results, read_json, tables, write_cards, write_json, write_plot, write_sheet
from benchmarks.slowmo.scores import ClipFrames, score_frames
from vidsr.config import Precision
from vidsr.errors import VidsrError
from vidsr.models.cards import find_card

SETS = ("vid4-BI", "general-BI", "faces-BI")


@dataclass(frozen=True)
class Set:
    """A set: its folder, and how a uint8 clip N x 3 x H x W becomes the input N x 3 x h x w in 0..1."""

    label: str
    folder: str
    degrade: Callable[[Tensor], Tensor]


def parse_set(label: str) -> Set:
    """The set of a name such as faces-BI, vid4-BD-crf28 or vid4-BI-jpeg-40."""
    folder, _, condition = label.partition("-BI-")
    if condition in CONDITIONS:
        reduction, degradation = CONDITIONS[condition]
        return Set(label, folder, lambda truth: degradation(reduction(truth, SCALE)))
    return _of_setting(parse_setting(label))


def _of_setting(setting: Setting) -> Set:
    crf = setting.crf
    if crf is None:
        return Set(setting.label, setting.folder, lambda truth: reduced(truth, setting.kind))
    return Set(setting.label, setting.folder, lambda truth: compressed(reduced(truth, setting.kind), crf))


def label_of(setting: Set) -> str:
    """The set's name in the table and in cards."""
    return f"{setting.label}-x2"


def with_input_ends(clip: Tensor) -> Tensor:
    """The clip up to its last odd frame, counted from 1: the input frames and all frames between them."""
    return clip[: len(clip) - 1 + len(clip) % 2]


def measure(
    folder: Path, setting: Set, systems: list[str], precision: Precision, sheets: Path | None
) -> dict[str, list[ClipFrames]]:
    """One set: each clip is decoded and reduced once."""
    scores: dict[str, list[ClipFrames]] = {system: [] for system in systems}
    paths = clip_paths(folder)
    for number, path in enumerate(paths, 1):
        truth = with_input_ends(read_truth(path))
        low = setting.degrade(truth[::2])
        spent = []
        for system in systems:
            started = time.monotonic()
            result = slow_down(system, precision, low)
            scores[system].append(score_frames(path.stem, truth, result))
            spent.append(f"{system} {time.monotonic() - started:.1f} s")
            if sheets:
                write_sheet(sheets / f"{label_of(setting)}-{path.stem}-{Path(system).stem}.png", result)
        print(f"{label_of(setting)} {path.stem} ({number} of {len(paths)}): {', '.join(spent)}", file=sys.stderr)
    return scores


def reusable(known: Results, setting: Set, systems: list[str], folder: Path) -> dict[str, list[ClipFrames]]:
    """The known figures of a set; SystemExit if they belong to other clips."""
    row = {system: clips for system, clips in known.get(label_of(setting), {}).items() if system in systems}
    names = [path.stem for path in clip_paths(folder)]
    for system, clips in row.items():
        if [clip.name for clip in clips] != names:
            raise SystemExit(f"--reuse: the clips of {system} on {label_of(setting)} are not those of {folder}")
    return row


def main() -> None:
    parser = table_parser(__doc__, SETS, parse_set)
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="default: baselines and all shipped zsm models")
    parser.add_argument("--reuse", type=Path, metavar="FILE", help="what --json wrote earlier")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="PSNR by place in the window (needs matplotlib)")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="consecutive results of each clip as PNG files")
    options = parser.parse_args()
    systems: list[str] = options.systems or [*BASELINES, *shipped_models("zsm")]
    settings: list[Set] = options.sets or [parse_set(label) for label in SETS]
    if options.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: install vidsr[dev]")
    known = read_json(options.reuse) if options.reuse else {}
    models = [system for system in systems if system not in (*BASELINES, TWO_STAGES_DEGRADED)]
    if options.plot and not (models and BLEND in systems):
        parser.error(f"--plot needs a model and {BLEND}")
    try:
        for model in models:
            find_card(model)
    except VidsrError as error:
        parser.error(str(error))
    for setting in settings:
        clip_paths(options.data / setting.folder)  # so that a wrong --data is reported at once
    results: Results = {}
    for setting in settings:
        folder = options.data / setting.folder
        there = reusable(known, setting, systems, folder)
        missing = [system for system in systems if system not in there]
        if missing:
            there |= measure(folder, setting, missing, options.precision, options.sheets)
        results[label_of(setting)] = {system: there[system] for system in systems}
        if options.json:
            write_json(options.json, results)
        if options.markdown:
            options.markdown.write_text(tables(results) + "\n")
        if options.plot:
            write_plot(options.plot, results)
        if options.write_card:
            command = card_command("benchmarks.slowmo", options.precision)
            write_cards({label_of(setting): results[label_of(setting)]}, command)
    print(tables(results))


if __name__ == "__main__":
    main()
