"""`vidsr train`: trains a model by a recipe, resumes training, and publishes the result as model files."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vidsr.cli import options as o
from vidsr.cli.terminal import print_path


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A training recipe, such as models/recipes/secnet-fast.toml.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of training clips and stills; an index.json in it is optional.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for checkpoints and log; a run found there is resumed.")
    ],
    device: Annotated[str, typer.Option(help="Device: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets torch choose.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that prepare batches.")] = 1,
    minutes: Annotated[float, typer.Option(help="Save a checkpoint and stop after this many minutes.")] = math.inf,
    init_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights from which a new run starts.", show_default=False)
    ] = None,
    perceptual: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=r"Weights of the perceptual distance, for a recipe with \[perceptual].",
            show_default=False,
        ),
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="When done, write the model's weights, example and card to this folder.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="With --publish: the model's license, such as Apache-2.0.", show_default=False)
    ] = None,
    data_name: Annotated[
        str | None, typer.Option(help="With --publish: a short description of the training data.", show_default=False)
    ] = None,
    data_licences: Annotated[
        str | None,
        typer.Option(
            help="With --publish: the data's licenses; required unless an index.json lists them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Trains a model by a recipe; run it again with the same --output to resume."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.errors import UsageError
        from vidsr.runtime.threads import use_threads
        from vidsr.train import loop
        from vidsr.train.detector.loop import train_detector
        from vidsr.train.detector.recipe import DetectorRecipe, is_detector_recipe, load_detector_recipe
        from vidsr.train.publish import provenance_of, publish_detector, publish_model
        from vidsr.train.recipe import load_recipe
        from vidsr.train.trainer import TrainOptions

        use_threads(threads)
        options = TrainOptions(data, output, device, workers, minutes, init_from, perceptual)

        def say(entry: dict[str, float]) -> None:
            screen.say(_line(entry))

        if publish is None and (licence or data_name or data_licences):
            raise UsageError(
                "--licence, --data-name and --data-licences have no effect without --publish: add it or leave them out"
            )
        is_detector = is_detector_recipe(recipe)
        plan = load_detector_recipe(recipe) if is_detector else load_recipe(recipe)
        if publish is not None:  # refused before hours of training
            provenance = provenance_of(plan, data, device, licence, data_name, data_licences)
        if isinstance(plan, DetectorRecipe):
            checkpoint, make_files = train_detector(plan, options, say), partial(publish_detector, plan)
        else:
            checkpoint, make_files = loop.train(plan, options, say), partial(publish_model, plan)
        if publish is not None:
            card = make_files(recipe, checkpoint.with_name("best.pt"), publish, provenance)
            screen.say(f"wrote {card}: measure its metrics before you share the model")
        print_path(checkpoint)


def _line(entry: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.5g}" for key, value in entry.items())
