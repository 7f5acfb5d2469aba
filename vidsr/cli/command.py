"""A command whose options may also come from settings files and from the preset of `--for`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from vidsr.cli import COMMANDS, load_command
from vidsr.cli import settings as s
from vidsr.cli.presets import PRESETS
from vidsr.cli.terminal import print_text
from vidsr.errors import UsageError

# The parameters of a command's function that are handled here.
FOOTAGE, PRINT_CONFIG = "footage", "print_config"
_KEY = "vidsr.settings"


class ConfiguredCommand(TyperCommand):
    """A command with `--print-config`, and perhaps `--for`: what the command line lacks comes from the settings."""

    @property
    def file_options(self) -> dict[str, Any]:
        """The parameters that a settings file may set, by the names of their options without dashes."""
        named = {_name(param): param for param in self.params if param.param_type_name == "option"}
        return {name: param for name, param in named.items() if name not in s.SINGLE_RUN and name != s.FOR}

    @property
    def has_presets(self) -> bool:
        """Whether the command has `--for`."""
        return any(param.name == FOOTAGE for param in self.params)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the options, and fills in those of the settings."""
        error, settings = None, s.Settings()
        try:
            settings = self._settings(ctx, args)
            ctx.default_map = {self.file_options[name].name: self._text(ctx, name, settings[name]) for name in settings}
        except UsageError as wrong:
            error = wrong
        rest = super().parse_args(ctx, args)  # shows the help, also where a settings file is not valid
        if error is not None:
            ctx.fail(str(error))
        given = {name for name, param in self.file_options.items() if _is_given(ctx, param.name)}
        used = {name: setting for name, setting in settings.items() if name not in given}
        kept = s.merge(used, {name: s.Setting(None, "") for name in given})
        for name in used.keys() - kept.keys():  # excluded by an option of the command line
            param = self.file_options[name]
            ctx.params[param.name] = param.default
        ctx.meta[_KEY] = (given, {name: used[name] for name in used if name in kept})
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Says what the settings set and runs the command, or prints the options."""
        given, used = ctx.meta[_KEY]
        if ctx.params[PRINT_CONFIG]:
            origins = dict.fromkeys(given, "command line") | {name: setting.origin for name, setting in used.items()}
            print_text(s.as_toml(str(self.name), dict(self._values(ctx)), origins))
            return None
        if used:
            from vidsr.cli.console import Screen

            screen = Screen(ctx.params["progress"], ctx.params["quiet"])
            for sentence in s.described(used):
                screen.say(sentence)
        return super().invoke(ctx)

    def _settings(self, ctx: Any, args: list[str]) -> s.Settings:
        """All settings of this run. Raises UsageError."""
        files = []
        if places := [place for place in s.settings_places() if place.path.is_file()]:
            commands = {name: load_command(name) for name, entry in COMMANDS.items() if entry.has_settings}
            options = {
                name: {*each.file_options, *([s.FOR] if each.has_presets else [])} for name, each in commands.items()
            }
            files = [s.read_file(place, str(self.name), options) for place in places]
        footage = self.make_parser(ctx).parse_args(list(args))[0].get(FOOTAGE)
        return s.combine(files, footage, {name: preset.options for name, preset in PRESETS.items()})

    def _text(self, ctx: Any, name: str, setting: s.Setting) -> Any:
        """The value as on the command line, where all values are texts. Raises UsageError for a wrong one."""
        param, value = self.file_options[name], setting.value
        if param.is_flag:
            is_right, wanted = isinstance(value, bool), "true or false"
        elif param.multiple:
            is_right, wanted = (
                isinstance(value, list) and all(isinstance(each, str) for each in value),
                "a list of texts",
            )
        else:
            is_right, wanted = (
                isinstance(value, (str, int, float)) and not isinstance(value, bool),
                "a text or a number",
            )
            value = str(value)
        if not is_right:
            raise UsageError(f"{setting.origin}: '{name}' must be {wanted}, not {setting.value!r}")
        try:
            param.process_value(ctx, value)
        except Exception as error:
            if not hasattr(error, "message"):  # of no wrong value
                raise
            raise UsageError(f"{setting.origin}: '{name}' is not valid: {error.message}") from error
        return value

    def _values(self, ctx: Any) -> Iterator[tuple[str, Any]]:
        """The options that have a value, as a settings file has them."""
        for name, param in self.file_options.items():
            value = ctx.params[param.name]
            if value is not None and not (param.multiple and not value):
                yield name, str(value) if isinstance(value, Path) else value


def _name(param: Any) -> str:
    return str(next((each for each in param.opts if each.startswith("--")), param.opts[0])).lstrip("-")


def _is_given(ctx: Any, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
