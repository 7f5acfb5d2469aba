"""The user's own models: where `vidsr models import` puts them and `--model` finds them. Loads nothing heavy."""

from __future__ import annotations

from pathlib import Path


def own_models_folder() -> Path:
    """The folder of this user's models: `vidsr/models` in the system's data folder for users (XDG_DATA_HOME counts)."""
    from platformdirs import user_data_path

    return user_data_path("vidsr", appauthor=False) / "models"


def resolve_model(name: str) -> str:
    """The path of the card if the user has a model of this name, which then stands for a shipped one; else `name`."""
    card = own_models_folder() / f"{name}.toml"
    return str(card) if Path(name).name == name and card.is_file() else name
