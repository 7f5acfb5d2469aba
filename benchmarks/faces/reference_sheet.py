"""Makes pictures of faces restored with and without photographs, of people whose files have an open licence.

    python -m benchmarks.faces.reference_sheet --data DIR --output FILE.png [--model MODEL] [--people NAME ...]
        [--side PIXELS] [--crf N] [--sequences FOLDER] [--cache FOLDER]

DIR, MODEL and --cache are as for benchmarks.faces.references, and so are the people: they were held out of the
training. Only files of licence class A are used; the command prints the source and the licence of each, which have to
stand beside a published picture. FILE has a row for each of a few people: the photograph, the middle frame of the small
video (shown in its pixels), restored without the photograph, with it, and the original. --crf encodes the small video
with x264. --sequences writes ten consecutive frames of every clip of class A: a row without photographs, one with, one
original.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.faces.reference_restoration import pasted, reduced, restored, tracked
from benchmarks.faces.reference_samples import CLIP, FRAMES, PICTURES, Sample, photograph, samples, shown
from benchmarks.faces.references import Branch, load_branch
from benchmarks.faces.sheets import COLUMNS, labeled, save
from vidsr.errors import InputError, VidsrError
from vidsr.evaluation.metrics import SCALE
from vidsr.faces.engine import REFERENCE_MODEL
from vidsr.faces.references import FacePhotograph

ROWS, SIDE = 4, 24.0
AROUND = 2.2  # side of the shown part of a photograph in distances from the eyes to the mouth, on both sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--model", default=REFERENCE_MODEL, metavar="MODEL")
    parser.add_argument("--people", nargs="+", default=(), metavar="NAME", help=f"otherwise the first {ROWS}")
    parser.add_argument("--side", type=float, default=SIDE, metavar="PIXELS", help="of a face in the small video")
    parser.add_argument("--crf", type=int, metavar="N")
    parser.add_argument("--sequences", type=Path, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        branch = load_branch(options.model)
        with tempfile.TemporaryDirectory() as folder:
            cache = options.cache or Path(folder)
            found = [each for each in samples(options.data, branch.held, cache) if is_open(each)]
            chosen = [replace(each, side=options.side) for each in of_people(found, options.people)]
            rows = [row for each in chosen if (row := picture(each, branch, options.crf, cache)) is not None]
            if not rows:
                raise InputError("no face is found at this size: choose other people, or a larger --side")
            save(options.output, torch.cat(rows, 1))
            clips = [each for each in found if each.group == CLIP] if options.sequences else []
            for name, image in sequences(clips, branch, options.crf, cache):
                options.sequences.mkdir(parents=True, exist_ok=True)
                save(options.sequences / f"{name}.png", image)
    except VidsrError as error:
        parser.error(str(error))
    for line in attributions(options.data, [*chosen, *clips]):
        print(line)


def is_open(sample: Sample) -> bool:
    """Whether the files of a sample and of its photographs are all of licence class A."""
    files = [sample.person.items[sample.file], *(each.person.items[each.item] for each in sample.own)]
    return all(item.licence_class == "A" for item in files)


def of_people(found: Sequence[Sample], names: Sequence[str]) -> list[Sample]:
    """One sample with another picture of each of these people, by default of the first ROWS. Raises InputError."""
    first: dict[str, Sample] = {}
    for sample in found:
        if sample.group == PICTURES:
            first.setdefault(sample.person.name, sample)
    if unknown := [name for name in names if name not in first]:
        raise InputError(f"nobody of licence class A is called {unknown[0]}: choose of {', '.join(first)}")
    return [first[name] for name in names or list(first)[:ROWS]]


def picture(sample: Sample, branch: Branch, crf: int | None, cache: Path) -> Tensor | None:
    """A row of the picture, 3 x H x W, uint8; None if the face is not tracked."""
    found = both(sample, branch, crf, cache, FRAMES)
    if found is None:
        return None
    truth, low, without, beside, weight = found
    middle = FRAMES // 2
    small = low[middle].repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    side = truth.shape[-1]
    images = [cropped(photograph(sample.own[0], cache), side), *map(in_bytes, (small, *(
        clip[middle] for clip in (without, beside, truth)
    )))]  # fmt: skip
    text = f"photograph | small video | restored without it | with it (weight {weight:.2f}) | original"
    return labeled(text, images)


def sequences(
    found: Sequence[Sample], branch: Branch, crf: int | None, cache: Path
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """Name and picture of each clip: consecutive frames in a row."""
    for sample in found:
        clips = both(sample, branch, crf, cache, COLUMNS)
        if clips is None:
            print(f"{sample.name}: its face is not tracked", file=sys.stderr)
            continue
        truth, _, without, beside, weight = clips
        rows = {"without photographs": without, f"with photographs (weight {weight:.2f})": beside, "original": truth}
        yield (
            sample.person.items[sample.file].path.stem,
            torch.cat([labeled(text, [in_bytes(image) for image in clip]) for text, clip in rows.items()], 1),
        )


def both(
    sample: Sample, branch: Branch, crf: int | None, cache: Path, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, float] | None:
    """The truth, the small video, the results without and with photographs, and the sum of their mean weights."""
    clip = shown(sample, cache, length)
    if clip is None:
        return None
    low = reduced(clip.truth, crf)
    frames = tracked(low, clip.boxes[0] / SCALE)
    if frames is None:
        return None
    own = [photograph(each, cache) for each in sample.own]
    without, beside = (restored(frames, branch.network, given) for given in ([], own))
    return clip.truth, low, pasted(clip.truth, without), pasted(clip.truth, beside), sum(beside.weights)


def cropped(found: FacePhotograph, side: int) -> Tensor:
    """The face of a photograph, 3 x side x side, uint8."""
    middle = found.points.mean(0)
    reach = AROUND * float(np.hypot(*(found.points[:2].mean(0) - found.points[3:].mean(0))))
    height, width = found.image.shape[:2]
    left, top = np.clip(np.floor(middle - reach), 0, None).astype(int)
    right, bottom = np.clip(np.ceil(middle + reach), None, [width, height]).astype(int)
    face = cv2.resize(found.image[top:bottom, left:right], (side, side), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)


def in_bytes(image: Tensor) -> Tensor:
    """3 x H x W in 0..1 as uint8."""
    return (255 * image.clamp(0, 1)).round().to(torch.uint8)


def attributions(data: Path, found: Sequence[Sample]) -> list[str]:
    """A line for each file: where it comes from, and its licence."""
    index = {each["path"]: each for each in json.loads((data / "index.json").read_text(encoding="utf-8"))}
    files = [(each.person, file) for each in found for file in (each.file, *(own.item for own in each.own))]
    paths = dict.fromkeys(person.items[file].path.relative_to(data).as_posix() for person, file in files)
    return [f"{path}: {index[path]['source']}, {index[path].get('licence', 'no licence stated')}" for path in paths]


if __name__ == "__main__":
    main()
