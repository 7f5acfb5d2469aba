"""`vidsr models list|show|verify`: the networks that vidsr knows, and whether their files are whole."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vidsr.cli import options as o

models = typer.Typer(help="The shipped networks.", no_args_is_help=True)


@models.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False) -> None:
    """Lists the models."""
    from vidsr.ui import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.weights import list_cards, untrained_presets

        cards, untrained = list_cards(), untrained_presets()
        if as_json:
            known = [{"name": card.name, "summary": card.summary, "trained": True} for card in cards]
            known += [{"name": preset.name, "summary": preset.summary, "trained": False} for preset in untrained]
            typer.echo(json.dumps(known, indent=2))
            return
        rows = [[card.name, card.summary, f"x{card.scale}", f"{card.bytes / 1000:.0f} kB", card.date] for card in cards]
        rows += [[preset.name, preset.summary, "", "none: train it", ""] for preset in untrained]
        rows.insert(0, ["bicubic", "Keys' cubic interpolation, the baseline: no network", "x4", "", ""])
        screen.table("models", ["name", "what", "scale", "weights", "trained"], rows)


@models.command()
def show(
    name: Annotated[str, typer.Argument(help="A model's name or the path of a card.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Shows a model's card, the parameters of its parts and its work for each pixel."""
    from vidsr.ui import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.weights import describe

        values = describe(name)
        if as_json:
            typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
            return
        screen.fields(name, {key: json.dumps(v) if isinstance(v, dict) else str(v) for key, v in values.items()})


@models.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all shipped ones if none is named.")] = None,
) -> None:
    """Checks the files of models: size, SHA-256, tensors, and that the network computes its stored example."""
    from vidsr.ui import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.weights import find_card, list_cards
        from vidsr.weights import verify as verify_card

        cards = [find_card(name) for name in names] if names else list_cards()
        for card in cards:
            difference = verify_card(card)
            screen.say(f"{card.name}: whole; its example is reproduced to {difference:.1g}")
