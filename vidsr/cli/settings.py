"""Settings: options from `vidsr.toml` files and presets, below those of the command line.

Precedence: command line, `--for`, `vidsr.toml` in the working folder, `vidsr.toml` in the user's configuration folder,
defaults. In a file, options at the top are for every command that has them; those in a table named like a command are
for that one, and come before those at the top.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidsr.errors import UsageError

FILE_NAME = "vidsr.toml"
FOR = "for"
PRESET = "--for "  # begins the origin of a preset's options
# Options that replace each other: a value for one of them is one for all.
EXCLUSIVE = (("scale", "size", "height"),)
OF_THE_MODEL = ("deblur", "denoise", "deblock")
# Options with which an encoder may write any file; they are refused in a file that may come from a stranger.
UNSAFE = frozenset({"encoder-option"})
# Options that belong to one run, not to a file.
SINGLE_RUN = frozenset(
    {"overwrite", "dry-run", "report", "start", "end", "list", "shard", "preview", "print-config", "help"}
)


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of an option, and where it comes from: a file, or the preset of `--for`."""

    value: Any
    origin: str


Settings = dict[str, Setting]


@dataclass(frozen=True, slots=True)
class File:
    """The settings of one file for one command. `footage` is its value of `for`."""

    settings: Settings
    footage: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """A settings file, which need not exist. One in the working folder may come from a stranger, with the videos."""

    path: Path
    is_own: bool


def settings_places() -> list[Place]:
    """Where settings are looked for, the most general first."""
    from platformdirs import user_config_path

    return [Place(user_config_path("vidsr", appauthor=False) / FILE_NAME, True), Place(Path(FILE_NAME), False)]


def read_file(place: Place, command: str, options: Mapping[str, set[str]]) -> File:
    """The settings of a file for a command; `options` are the names that each command with settings has.

    Raises UsageError for a file that cannot be read, a name that no command has, and one that may not stand there.
    """
    from vidsr.toml import read_table  # read only where there is such a file

    path, table = place.path, read_table(place.path, "settings file", UsageError)
    merged: dict[str, Any] = {}
    for name, value in table.items():
        if name not in options:
            _check_name(place, name, set().union(*options.values()), options)
            merged[name] = value
    for name in options:
        inner = table.get(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"the settings file {path}: '{name}' is a command: write a table [{name}]")
        for key in inner:
            _check_name(place, key, options[name])
        if name == command:
            merged = {key: merged[key] for key in merged if key not in _replaced(inner)} | inner
    own = {name: value for name, value in merged.items() if name in options[command]}
    footage = own.pop(FOR, None)
    if footage is not None and not isinstance(footage, str):
        raise UsageError(f"the settings file {path}: '{FOR}' must be a name, not {footage!r}")
    for group in EXCLUSIVE:
        if len(both := [name for name in group if name in own]) > 1:
            raise UsageError(f"the settings file {path} has both '{both[0]}' and '{both[1]}': keep one of them")
    return File({name: Setting(value, str(path)) for name, value in own.items()}, footage)


def _check_name(place: Place, name: str, known: set[str], tables: Iterable[str] = ()) -> None:
    where = f"the settings file {place.path}"
    if name in SINGLE_RUN:
        raise UsageError(f"{where}: '{name}' belongs to a single run: give it on the command line")
    if name in UNSAFE and not place.is_own:
        own = settings_places()[0].path
        raise UsageError(f"{where}: '{name}' can make encoders write files: put it into {own} or on the command line")
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *tables], n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(known))}"
        raise UsageError(f"{where}: unknown option '{name}'; {remedy}")


def _replaced(high: Iterable[str]) -> set[str]:
    """The options that these exclude."""
    names = set(high)
    return {name for group in EXCLUSIVE if names & {*group} for name in group}


def merge(low: Settings, high: Settings) -> Settings:
    """Both settings; where both have a value, or values that exclude each other, those of `high`.

    Another model than that of a preset takes away the levels that the preset has for its model.
    """
    gone = _replaced(high)
    if "model" in high:
        gone |= {name for name in OF_THE_MODEL if name in low and low[name].origin.startswith(PRESET)}
    return {name: setting for name, setting in low.items() if name not in gone} | high


def combine(files: Iterable[File], footage: str | None, presets: Mapping[str, Mapping[str, Any]]) -> Settings:
    """All settings of a run: `files` from the most general on, `footage` from the command line.

    The preset of a file is below the file's own options, and the preset of the command line above all files. Only one
    preset applies, the most specific one. Raises UsageError for a preset that does not exist.
    """
    files = list(files)
    named = [number for number, file in enumerate(files) if file.footage is not None]
    chosen = len(files) if footage is not None else named[-1] if named else None
    settings: Settings = {}
    for number, file in enumerate([*files, File({}, footage)]):
        if number == chosen:
            settings = merge(settings, _preset(file.footage or "", presets))
        settings = merge(settings, file.settings)
    return settings


def _preset(footage: str, presets: Mapping[str, Mapping[str, Any]]) -> Settings:
    if footage not in presets:
        raise UsageError(f"there is no preset '{footage}': use {', '.join(presets)}")
    return {name: Setting(value, f"{PRESET}{footage}") for name, value in presets[footage].items()}


def described(settings: Mapping[str, Setting]) -> Iterator[str]:
    """A sentence about what each origin sets."""
    for origin in dict.fromkeys(setting.origin for setting in settings.values()):
        values = [f"{name} = {_toml(each.value)}" for name, each in settings.items() if each.origin == origin]
        yield f"{origin} sets {', '.join(values)}"


def as_toml(command: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """A settings file with these options in the command's table; comments say where they come from."""
    lines = [f"[{command}]"]
    for name, value in values.items():
        comment = f"  # {' '.join(origins[name].split())}" if name in origins else ""
        lines.append(f"{name} = {_toml(value)}{comment}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    import tomli_w  # for --print-config only

    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ")
