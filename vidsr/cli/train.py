"""`vidsr train`: runs a recipe, resumes it, and makes a model's files of its result."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vidsr.cli import options as o


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe, such as models/recipes/secnet-fast.toml.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Clips and stills, with or without an index.json.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoints and log; a run that is there is resumed.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads on the CPU; 0 lets torch choose.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches.")] = 1,
    minutes: Annotated[float, typer.Option(help="Stop with a checkpoint after this long.")] = math.inf,
    init_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights that a new run starts from.", show_default=False)
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="At the end, write weights, example and card here.", show_default=False),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="With --publish: the model's licence, such as Apache-2.0.", show_default=False)
    ] = None,
    data_name: Annotated[
        str | None, typer.Option(help="With --publish: what the data is, in a few words.", show_default=False)
    ] = None,
    data_licences: Annotated[
        str | None,
        typer.Option(
            help="With --publish: the data's licences; needed unless an index.json gives their classes.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Trains a model by a recipe; run again with the same --output to resume."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        import torch

        from vidsr.errors import UsageError
        from vidsr.train import loop
        from vidsr.train.detector.loop import train_detector
        from vidsr.train.detector.recipe import DetectorRecipe, is_detector_recipe, load_detector_recipe
        from vidsr.train.publish import provenance_of, publish_detector, publish_model
        from vidsr.train.recipe import load_recipe
        from vidsr.train.trainer import TrainOptions

        if threads:
            torch.set_num_threads(threads)
        options = TrainOptions(data, output, device, workers, minutes, init_from)

        def say(entry: dict[str, float]) -> None:
            screen.say(_line(entry))

        if publish is None and (licence or data_name or data_licences):
            raise UsageError("--licence, --data-name and --data-licences are for the card that --publish writes")
        is_detector = is_detector_recipe(recipe)
        plan = load_detector_recipe(recipe) if is_detector else load_recipe(recipe)
        if publish is not None:  # before hours of work
            provenance = provenance_of(plan, data, device, licence, data_name, data_licences)
        if isinstance(plan, DetectorRecipe):
            checkpoint, make_files = train_detector(plan, options, say), partial(publish_detector, plan)
        else:
            checkpoint, make_files = loop.train(plan, options, say), partial(publish_model, plan)
        if publish is not None:
            card = make_files(recipe, checkpoint.with_name("best.pt"), publish, provenance)
            screen.say(f"wrote {card}; its metrics are to be measured before it is shipped")
        typer.echo(str(checkpoint))


def _line(entry: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.5g}" for key, value in entry.items())
