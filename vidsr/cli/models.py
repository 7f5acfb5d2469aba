"""`vidsr models list|show|verify|import|export`: lists, checks and converts models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsr.cli import options as o
from vidsr.cli.terminal import print_json, print_path
from vidsr.errors import UsageError

if TYPE_CHECKING:
    from vidsr.cli.console import Screen
    from vidsr.models.cards import ModelCard, Preset

models = typer.Typer(
    name="models", help="Lists, checks, imports and exports models.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(help="A model's name or the path of its card (.toml).", show_default=False)]


def _known() -> tuple[list[ModelCard], list[Preset]]:
    """The models that have weights, and the untrained presets. The user's own models come before shipped namesakes."""
    from vidsr.models.cards import known_cards, untrained_presets

    cards = known_cards()
    names = {card.name for card in cards}
    return cards, [preset for preset in untrained_presets() if preset.name not in names]


@models.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False) -> None:
    """Lists all models."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.models.cards import detector_card

        cards, untrained = _known()
        detector = detector_card()
        if as_json:
            known = [
                {
                    "name": card.name,
                    "summary": card.summary,
                    "trained": True,
                    "scale": card.scale,
                    "licence": card.licence,
                }
                for card in cards
            ]
            known += [{"name": detector.name, "summary": detector.summary, "trained": True}]
            known += [{"name": preset.name, "summary": preset.summary, "trained": False} for preset in untrained]
            print_json(json.dumps(known, indent=2))
            return
        rows = [
            [card.name, card.summary, f"x{card.scale}", f"{card.bytes / 1000:.0f} kB", card.licence] for card in cards
        ]
        rows += [
            [
                preset.name,
                preset.summary,
                "",
                "none: train or import it" if preset.import_command else "none: train it",
                "",
            ]
            for preset in untrained
        ]
        rows.append([detector.name, detector.summary, "", f"{detector.bytes / 1000:.0f} kB", detector.licence])
        rows.insert(0, ["bicubic", "cubic interpolation (Keys), the baseline without a network", "x4", "", ""])
        screen.table("models", ["name", "description", "scale", "weights", "license"], rows)


@models.command()
def show(name: Name, as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False) -> None:
    """Shows a model's card, its parameter counts and its operations per pixel."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.models.cards import resolve_model
        from vidsr.models.loading import describe

        values = describe(resolve_model(name))
        if as_json:
            print_json(json.dumps(values, indent=2, ensure_ascii=False))
            return
        screen.fields(name, {key: json.dumps(v) if isinstance(v, dict) else str(v) for key, v in values.items()})


@models.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to check; all that have weights if none is given.")
    ] = None,
) -> None:
    """Checks model files: size, SHA-256, tensors, and whether the network reproduces its stored example."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.models.cards import detector_card, find_card, resolve_model
        from vidsr.models.loading import verify as verify_card

        known = [find_card(resolve_model(name)) for name in names or []] or [*_known()[0], detector_card()]
        for card in known:
            screen.say(f"{card.name}: intact; the stored example is reproduced to within {verify_card(card):.1g}")


@models.command("import")
def import_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME] FILE",
            help="The model file (.pth, .safetensors, .onnx), with a name for the model before it if that of the "
            "file will not do; or zsm (Zooming SlowMo) and its authors' checkpoint.",
            show_default=False,
        ),
    ],
    file: Annotated[Path | None, typer.Argument(readable=False, hidden=True, show_default=False)] = None,
    licence: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The model's licence, for its card.", show_default="unknown"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the model; by default the one where --model NAME finds it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Overwrite an earlier import.")] = False,
) -> None:
    """Imports other people's models: networks for single images, and the weights of Zooming SlowMo.

    Prints the path of the new model card. No code in the file is run.
    """
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.models.cards import own_models_folder, read_card
        from vidsr.models.importers import import_model as import_released
        from vidsr.models.registry import released_weights

        folder = output or own_models_folder()
        if file is not None and name in released_weights():
            if licence is not None:
                raise UsageError(f"the licence of {name} is known: leave out --licence")
            path = import_released(name, file, folder, overwrite)
        else:
            own_name, source = (None, Path(name)) if file is None else (name, file)
            path = _import_foreign(screen, own_name, source, folder, licence, overwrite)
        card = read_card(path)
        screen.say(f"imported: use it with --model {card.path if output else card.name}; license: {card.licence}")
        print_path(card.path)


def _import_foreign(
    screen: Screen, name: str | None, file: Path, folder: Path, licence: str | None, overwrite: bool
) -> Path:
    """Imports a network for single images and says what it is; returns the path of its card."""
    from vidsr.models.zoo import import_foreign

    imported = import_foreign(file, folder, name, licence, overwrite)
    config = imported.config
    use = "cleans frames: --clean, or --model for that alone" if config.scale == 1 else f"enlarges by {config.scale}"
    screen.say(
        f"{config.network}: {use}; sides of an image: {config.size_rule}; {config.bytes_per_pixel / 1000:.1f} kB of "
        f"memory per pixel, tiles overlap by {config.overlap}"
    )
    for note in imported.notes:
        screen.warn(note)
    return imported.card


@models.command()
def export(
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The ONNX file to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Overwrite existing files.")] = False,
) -> None:
    """Exports a model to ONNX in float32, for frames of any size.

    The recurrent state is passed as inputs and outputs: state NAME starts as zeros, and its next value is the output
    NAME_next. Zooming SlowMo is written as one file per part, FILE.PART.onnx. Prints the paths of the files.
    """
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.models.cards import find_card, resolve_model
        from vidsr.models.loading import load_network
        from vidsr.models.onnx_export import export as write_graphs

        for path in write_graphs(load_network(find_card(resolve_model(name))), target, overwrite):
            print_path(path)
