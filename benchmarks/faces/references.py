"""Faces with reference photographs: the whole table in one command, with the papers' figures beside it.

    python -m benchmarks.faces.references --data DIR [--model MODEL] [--face-embedding FILE] [--only PART,...]
        [--json FILE] [--resume] [--markdown FILE] [--cache FOLDER] [--embeddings-cache FILE.npz]

DIR is the folder with index.json. MODEL is a card or a checkpoint (.pt, its averaged weights) of the branch of
references, by default the shipped one. The parts are "restoration" (reference_restoration.py, on the people of
reference_samples.py), "persons" (persons.py) and "cost" (reference_cost.py). Rows that cannot be measured, because
there are no weights or no face embedding, say so. Cost needs no trained weights.

Who was held out of the training is read from the checkpoint, for a card from the recipe of the model that is shipped.
--json keeps the figures of every sample; with --resume what is there is not measured again. --cache keeps decoded
images and the faces in them; the folder "frames" of a training of the same data serves. Everything runs in one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.clips import markdown
from benchmarks.faces import persons, reference_cost, reference_restoration
from benchmarks.faces.detection import CPU
from benchmarks.faces.reference_samples import HoldOut, samples
from benchmarks.faces.scores import Figure, table
from benchmarks.quality.ledger import Ledger
from benchmarks.quality.real_footage import title
from vidsr.errors import ModelError, VidsrError
from vidsr.faces.embedding import EXTRA, choose_embedding, load_embedding
from vidsr.faces.engine import REFERENCE_MODEL
from vidsr.models.cards import find_card, models_folder, sha256_of
from vidsr.models.loading import load_network
from vidsr.models.registry import build
from vidsr.nets.secnet.network import SECNet
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.recipe import Recipe, load_recipe

PARTS = ("restoration", "persons", "cost")
PRINTED = (
    ("HIME's ablation, x8 from 16 px, PSNR RGB: 0, 1, 3 references", "23.84, 24.35 (+0.51), 24.54 (+0.70)"),
    ("the same, SSIM; LPIPS", "0.7088, 0.7318, 0.7409; 0.3440, 0.2572, 0.2433"),
    ("HIME_rec over bicubic, 3 references: x4 from 32 px, x4 from 64 px, x8 from 16 px", "+3.47, +2.84, +2.71 dB"),
    ("HIME, x4: parameters, multiply-adds of 32x32 with 3 references", "0.87 M, 1.86 G"),
)
PRINTED_TITLE = "CelebAMask-HQ, aligned to a template; other pictures of the person"


@dataclass(frozen=True, slots=True)
class Branch:
    """A network with a branch of references, a text that names its weights, and who its training held out."""

    network: SECNet
    identity: str
    held: HoldOut


def load_branch(model: str) -> Branch:
    """Loads a card or a checkpoint. Raises VidsrError without its weights, and for a network without the branch."""
    if model.endswith(".pt"):
        saved = load_checkpoint(Path(model))
        recipe: dict[str, Any] = saved["recipe"]
        network, digest = build(recipe["architecture"], recipe["network"]), sha256_of(Path(model))
        network.load_state_dict(saved["average"])
        table, classes = recipe.get("references"), recipe["data"]["licence_classes"]
        held = None if table is None else HoldOut(table["person_pattern"], table["holdout_people"], tuple(classes))
    else:
        card = find_card(model)
        network, digest, held = load_network(card), card.sha256, hold_out_of(shipped_recipe())
    if not isinstance(network, SECNet) or network.references is None or held is None:
        raise ModelError(f"{model} has no branch of references: give a model with a reference_width")
    return Branch(network.eval().requires_grad_(False), f"{title(model)} {digest[:12]}", held)


def shipped_recipe() -> Recipe:
    """The recipe of the shipped branch."""
    found = load_recipe(models_folder() / "recipes" / f"{REFERENCE_MODEL}.toml")
    assert isinstance(found, Recipe)
    return found


def hold_out_of(recipe: Recipe) -> HoldOut:
    """Who a recipe with [references] holds out."""
    assert recipe.references is not None
    return HoldOut(recipe.references.person_pattern, recipe.references.holdout_people, recipe.data.licence_classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=REFERENCE_MODEL, metavar="MODEL")
    parser.add_argument("--face-embedding", default="auto", metavar="FILE", help="with SFace's interface")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures of every sample")
    parser.add_argument("--resume", action="store_true", help="keep the figures that are in the file of --json")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--cache", type=Path, metavar="FOLDER")
    parser.add_argument("--embeddings-cache", type=Path, metavar="FILE.npz", help="keeps the embeddings of the persons")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    try:
        branch: Branch | str = load_branch(options.model)
    except VidsrError as error:
        branch = str(error)
    ledger = Ledger(options.json, options.resume)
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "restoration": lambda: restoration_figures(options.data, branch, options.cache, ledger),
        "persons": lambda: person_figures(options.data, options.face_embedding, options.embeddings_cache),
        "cost": lambda: cost_figures(branch),
    }
    figures: list[Figure] = []
    for part in (part for part in PARTS if part in chosen):
        started = time.monotonic()
        try:
            figures += parts[part]()
        except VidsrError as error:
            parser.error(str(error))
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        if options.markdown is not None:
            options.markdown.write_text(as_text(figures) + "\n")
    print(as_text(figures))


def as_text(figures: list[Figure]) -> str:
    """Both tables: what was measured, and what papers print."""
    return table(figures) + "\n\n" + markdown(("printed", PRINTED_TITLE), list(PRINTED))


def restoration_figures(data: Path, branch: Branch | str, cache: Path | None, ledger: Ledger) -> Iterator[Figure]:
    """The part "restoration"; `branch` is a text that says why there is none."""
    if isinstance(branch, str):
        yield from reference_restoration.missing(branch)
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = cache or Path(folder)
        found = samples(data, branch.held, kept)
        yield from reference_restoration.measure(found, branch.network, branch.identity, kept, ledger)


def person_figures(data: Path, wanted: str, cache: Path | None) -> Iterator[Figure]:
    """The part "persons"; without an embedding its two rows with a target say so."""
    choice = choose_embedding(wanted)
    if choice is None:
        why = f"not measured: there is no face embedding: {EXTRA}, or give --face-embedding FILE"
        bar = f">= {persons.RECALL} at a precision >= {persons.PRECISION}"
        yield Figure(persons.WHAT_PAIRS, "track halves", float("nan"), why, bar)
        yield Figure(persons.WHAT_SWITCHES, "track halves", float("nan"), why, "0")
        return
    yield from persons.measure(data, load_embedding(choice, CPU, 1), cache)


def cost_figures(branch: Branch | str) -> Iterator[Figure]:
    """The part "cost"; without weights that of a new network, which costs as much."""
    if isinstance(branch, Branch):
        yield from reference_cost.measure(branch.network)
        return
    recipe = shipped_recipe()
    network = build(recipe.architecture, recipe.network)
    assert isinstance(network, SECNet)
    yield from reference_cost.measure(network.eval().requires_grad_(False))


if __name__ == "__main__":
    main()
