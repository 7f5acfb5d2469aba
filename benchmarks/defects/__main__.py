"""Benchmark of film defects and page spots, with targets: misses, false alarms, untouched clips, repair, time.

    python -m benchmarks.defects --data DIR [--only PART,...] [--frames N] [--json FILE] [--resume] [--markdown FILE]
                                 [--sheets FOLDER]

DIR holds train/clips/, eval/ (general/, faces/), film_damage/ and index.json. The trees were trained on other sources,
shapes and pages (see clips.py and training.py). Parts: drawn (specks and hairs drawn onto held-out clips), real (shapes
of real film damage, the 60 that are held out), untouched (clips without damage, also with drawn snow, rain, sparks,
balls and confetti), repair (against the clean truth), page (drawn pages, beside the figures of the text), time (of the
stage beside that of the enlargement by 4, 640 x 480, one thread). --resume takes the parts that are in the file of
--json from there. --sheets writes damaged, repaired and clean frames side by side for inspection.

Misses are of defects that are 4 pixels across or more and 25 levels strong somewhere. The same figure is
given for those that are plain to the eye: their mean change is at least the standard deviation of the luma around.
Nothing is left out of the first figure for that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.defects.clips import held_out_clips
from benchmarks.defects.drawing import PARTICLES, VISIBLE, Damaged, Frames, damaged, read_shapes, with_particles
from benchmarks.defects.pages import blocks
from benchmarks.defects.scoring import examine, read_clip, score
from benchmarks.faces.scores import Figure, table
from vidsr.config import ComputeConfig
from vidsr.defects import film, page
from vidsr.defects.dust import DustStage
from vidsr.engines.select import build_engine, select
from vidsr.stages.base import through
from vidsr.types import Frame

PARTS = ("drawn", "real", "untouched", "repair", "page", "time")
SEED = 9000
PAGES = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", type=parse_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--frames", type=int, default=8, help="frames of each clip (untouched: twice as many)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="keep the parts that are in the file of --json")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data, count = options.data, options.frames
    shapes = read_shapes(data / "film_damage", held_out=True) if options.only != "page" else []
    measured: dict[str, Callable[[], Iterator[Figure]]] = {
        "drawn": lambda: detection(data, count, (), "drawn specks and hairs", 0.20),
        "real": lambda: detection(data, count, shapes, "real shapes", 0.25),
        "untouched": lambda: untouched(data, 2 * count),
        "repair": lambda: repaired(data, count, options.sheets),
        "page": pages,
        "time": cost,
    }
    done: dict[str, list[Figure]] = {}
    if options.resume and options.json is not None and options.json.exists():
        done = {part: [Figure(**each) for each in kept] for part, kept in json.loads(options.json.read_text()).items()}
    for part in (part for part in PARTS if part in options.only and part not in done):
        started = time.monotonic()
        done[part] = list(measured[part]())
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        shown = table([figure for part in PARTS for figure in done.get(part, [])])
        if options.markdown is not None:
            options.markdown.write_text(shown + "\n")
        if options.json is not None:
            kept = {part: [asdict(figure) for figure in figures] for part, figures in done.items()}
            options.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(table([figure for part in PARTS for figure in done.get(part, [])]))


def parse_parts(text: str) -> tuple[str, ...]:
    """Parts by name, from "drawn,real"."""
    parts = tuple(text.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(PARTS)}")
    return parts


def films(
    data: Path, count: int, shapes: list[tuple[str, np.ndarray]], per_frame: float = 3.0
) -> Iterator[tuple[str, Damaged]]:
    """Each held-out clip with damage."""
    for number, path in enumerate(held_out_clips(data)):
        random = np.random.default_rng((SEED, number, bool(shapes)))
        yield path.stem, damaged(read_clip(path, count), random, shapes, per_frame)


def detection(data: Path, count: int, shapes: list[tuple[str, np.ndarray]], label: str, bar: float) -> Iterator[Figure]:
    """Misses and false alarms over all clips."""
    detector = film.FilmDetector()
    frames = []
    for name, damage in films(data, count, shapes):
        found = examine(damage, detector)
        one = score(found)
        counts = f"{one.missed} of {one.defects} missed, {one.false} of {one.reported} false"
        print(f"  {label} {name}: {counts}", file=sys.stderr)
        frames += found
    total, first = score(frames), score(frames, of_candidates=True)
    yield Figure(
        f"{label}: missed", f"{total.frames} frames, {total.defects} defects", total.miss,
        f"{total.miss:.3f} (no candidate: {first.miss:.3f})", f"<= {bar:.2f}", total.miss <= bar,
    )  # fmt: skip
    yield Figure(
        f"{label}, plain to the eye: missed", f"{total.frames} frames, {total.plain} defects", total.plain_miss,
        f"{total.plain_miss:.3f} (no candidate: {first.plain_miss:.3f})", "none", None,
    )  # fmt: skip
    yield Figure(
        f"{label}: false alarms", f"{total.frames} frames, {total.reported} regions", total.false_alarms,
        f"{total.false_alarms:.3f} of the regions reported", "<= 0.05", total.false_alarms <= 0.05,
    )  # fmt: skip


def untouched(data: Path, count: int) -> Iterator[Figure]:
    """What repair changes where there is nothing to repair."""
    clips = [("held-out clips", [(path.stem, read_clip(path, count)) for path in held_out_clips(data)])]
    for folder in ("general", "faces"):
        paths = sorted((data / "eval" / folder).glob("*.mp4"))
        clips.append((f"eval/{folder}", [(path.stem, read_clip(path, count)) for path in paths]))
    random = np.random.default_rng(SEED)
    carriers = [path for path in held_out_clips(data) if path.parent.name == "faces"][:3]
    for kind in PARTICLES:
        films_ = [(path.stem, with_particles(read_clip(path, count), random, kind)) for path in carriers]
        clips.append((f"drawn {kind}", films_))
    for name, parts in clips:
        touched = pixels = 0
        lowest, where = np.inf, ""
        for clip, frames in parts:
            changed, error = 0, 0.0
            for before, after in zip(frames, run_stage(frames), strict=True):
                difference = (after - before.astype(np.float32)).astype(np.float64)
                changed += int((np.abs(difference).max(2) > 0.25).sum())
                error += float(np.square(difference).mean())
            size = len(frames) * frames[0].shape[0] * frames[0].shape[1]
            touched, pixels = touched + changed, pixels + size
            psnr = 10 * np.log10(255**2 * len(frames) / error) if error else 99.0
            print(f"  {name} {clip}: 1 in {size / max(changed, 1):.0f}, {psnr:.1f} dB", file=sys.stderr)
            if psnr < lowest:
                lowest, where = float(psnr), clip
        share = touched / pixels
        shown = f"1 in {1 / share:,.0f}" if touched else "none"
        yield Figure("untouched clips: pixels changed", name, share, shown, "at most 1 in 20,000", share <= 1 / 20_000)
        yield Figure(
            "untouched clips: PSNR", f"{name}, worst ({where})", lowest, f"{lowest:.1f} dB", "> 50", lowest > 50
        )


def repaired(data: Path, count: int, sheets: Path | None) -> Iterator[Figure]:
    """How much nearer to the truth repaired defects are."""
    real = read_shapes(data / "film_damage", held_out=True)
    for label, shapes, per_frame in (
        ("drawn", [], 3.0),
        ("real shapes", real, 3.0),
        ("real shapes, one a frame", real, 1.0),
    ):
        before = after = before_all = after_all = 0.0
        changed = damaged_pixels = 0
        for name, damage in films(data, count, shapes, per_frame):
            results = run_stage(damage.frames)
            if sheets is not None:
                sheets.mkdir(parents=True, exist_ok=True)
                middle = count // 2
                row = np.concatenate([damage.frames[middle], results[middle], damage.clean[middle]], 1)
                cv2.imwrite(
                    str(sheets / f"{label.replace(', ', '-').replace(' ', '-')}-{name}.png"),
                    np.round(row[..., ::-1]).clip(0, 255).astype(np.uint8),
                )
            for result, shown, truth, change in zip(results, damage.frames, damage.clean, damage.change, strict=True):
                inside = change >= VISIBLE
                mended = inside & (np.abs(result - shown).max(2) > 0.25)
                damaged_error = np.square(shown.astype(np.float64) - truth).mean(2)
                error = np.square(result.astype(np.float64) - truth).mean(2)
                before, after = before + damaged_error[mended].sum(), after + error[mended].sum()
                before_all, after_all = before_all + damaged_error[inside].sum(), after_all + error[inside].sum()
                changed, damaged_pixels = changed + int(mended.sum()), damaged_pixels + int(inside.sum())
        gain, whole = 10 * np.log10(before / after), 10 * np.log10(before_all / after_all)
        share = 100 * changed / damaged_pixels
        yield Figure(
            "repair: gain inside the defects", f"{label}, {share:.0f} % of their area is repaired", float(gain),
            f"{gain:.1f} dB (all defects, with the missed ones: {whole:.1f} dB)", ">= 12", bool(gain >= 12),
        )  # fmt: skip


def run_stage(frames: Frames) -> list[np.ndarray]:
    """The frames after the stage with mode repair, H x W x 3 in levels."""
    stage = DustStage("repair")
    source = (
        Frame(
            torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255),
            index,
            Fraction(1, 25),
            1,
            starts_scene=index == 0,
        )
        for index, image in enumerate(frames)
    )
    return [255 * frame.image.permute(1, 2, 0).numpy() for frame in through(stage, source)]


def pages() -> Iterator[Figure]:
    """Rates as the text defines them: equations (1.12) and (1.13) over candidate blocks; and over all blocks."""
    tree = page.built_in_tree()
    counts = np.zeros((2, 2), int)
    marked_all = examined_all = 0
    for _, samples, marked, total, examined in blocks(np.random.default_rng(SEED), PAGES):
        marked_all, examined_all = marked_all + total, examined_all + examined
        if samples:
            decided = tree.decide(np.stack([sample.features for sample in samples]))
            np.add.at(counts, (np.array(marked, int), decided.astype(int)), 1)
    (true_negative, false_positive), (false_negative, true_positive) = counts
    miss = false_negative / (true_positive + false_negative)
    alarm = false_positive / (false_positive + true_negative)
    where = f"{PAGES} drawn pages, {examined_all} blocks, {counts.sum()} candidates"
    yield Figure("page: false alarms", where, float(alarm), f"{alarm:.3f} (text: .088)", "none", None)
    yield Figure(
        "page: missed", where, float(miss),
        f"{miss:.3f} (text: .266); no candidates included: {1 - true_positive / marked_all:.3f}", "none", None,
    )  # fmt: skip


def cost() -> Iterator[Figure]:
    """Processor time of the stage and of the enlargement, per frame, in turn."""
    random = np.random.default_rng(SEED)
    texture = cv2.GaussianBlur(random.uniform(0, 255, (520, 720, 3)).astype(np.float32), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    frames = [texture[step : step + 480, 2 * step : 2 * step + 640] for step in range(8)]
    damage = damaged([np.round(frame).astype(np.uint8) for frame in frames], random)
    engine = build_engine(select(ComputeConfig(), "upscale", 480, 640, enlargement=4)).engine
    tensors = [torch.from_numpy(frame.transpose(2, 0, 1).astype(np.float32) / 255) for frame in damage.frames]
    stage_seconds, engine_seconds = [], []
    state = engine.init_state(480, 640)
    for index, image in enumerate(tensors[:4]):
        started = time.process_time()
        _, state = engine.step(Frame(image, index, Fraction(1, 25), 1, starts_scene=index == 0), state)
        engine_seconds.append(time.process_time() - started)
        started = time.process_time()
        run_stage(damage.frames)
        stage_seconds.append((time.process_time() - started) / len(damage.frames))
    ratio = float(np.median(stage_seconds) / np.median(engine_seconds[1:]))
    yield Figure(
        "time of the stage to that of the enlargement", "640 x 480, x4, default model, one thread", ratio,
        f"{100 * ratio:.1f} % ({1000 * np.median(stage_seconds):.0f} ms a frame)", "<= 15 %", ratio <= 0.15,
    )  # fmt: skip


if __name__ == "__main__":
    main()
