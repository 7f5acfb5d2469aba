"""Which clips and shapes trees are trained on and which are held out; they share no source video and no shape."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

# Sources of train/clips/ that are held out: twelve of general/ and eight of faces/, drawn with default_rng(19) among
# those that neither an earlier tree was trained on nor an earlier benchmark measured.
HELD_OUT = {
    "general": (
        "ax_graffiti", "davis_blackswan", "davis_drift-chicane", "davis_goat", "davis_kite-surf", "davis_parkour",
        "davis_soapbox", "pexels_squirrel", "px_10020471", "px_6693826", "tf_wolf", "vpf_child",
    ),
    "faces": ("asl_book", "lp_s18", "lp_s20", "mustache", "px_6693826", "px_8136210", "st_aoc", "tf_woman"),
}  # fmt: skip
# Of the other sources every third one is trained on, with its first clip.
TRAINING_STEP = 3
SHAPE_SEED, HELD_OUT_SHAPES = 19, 60


def held_out_clips(data: Path) -> list[Path]:
    """The first clip of each source that is held out."""
    return [paths[0] for (kind, source), paths in _sources(data).items() if source in HELD_OUT[kind]]


def training_clips(data: Path) -> list[Path]:
    """The clips that trees are trained on."""
    rest = [paths[0] for (kind, source), paths in _sources(data).items() if source not in HELD_OUT[kind]]
    return rest[::TRAINING_STEP]


def _sources(data: Path) -> dict[tuple[str, str], list[Path]]:
    """The clips of train/clips of licence classes A and B, by kind and source, both sorted; needs index.json."""
    entries = json.loads((data / "index.json").read_text())
    entries = entries if isinstance(entries, list) else entries["files"]
    sources = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: str(entry["path"])):
        path = data / entry["path"]
        if entry["path"].startswith("train/clips/") and entry.get("licence_class") in ("A", "B"):
            sources[path.parent.name, path.stem.rsplit("_", 1)[0]].append(path)
    return dict(sorted(sources.items()))


def shape_files(folder: Path, held_out: bool) -> list[Path]:
    """The PNG files of a folder of shapes; 60 of them, drawn with SHAPE_SEED, are held out."""
    paths = sorted(folder.glob("*.png"))
    kept = set(np.random.default_rng(SHAPE_SEED).choice(len(paths), HELD_OUT_SHAPES, replace=False).tolist())
    return [path for index, path in enumerate(paths) if (index in kept) == held_out]
