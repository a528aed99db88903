"""Options from a TOML file and from the environment, so that what is the same every day is typed once.

A flag wins over an environment variable, and that over the file. A file may not say which code to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cyclopts.config import Dict, Env

from oodline._util.toml import read_toml
from oodline.errors import DataError, SettingError, unknown_name

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

FILE = Path("oodline.toml")
"""The file that is read where it lies in the working folder."""

PREFIX = "OODLINE_"
"""What the names of environment variables begin with: OODLINE_MODEL is --model."""

OTHER_VARIABLES = ("OODLINE_CONFIG", "OODLINE_METRICS_TOKEN", "OODLINE_SHARED", "OODLINE_TOKEN")
"""Those that stand for no option: the file of options, tokens of the service, and a folder of the project's tests."""

EACH_TIME = ("allow-other-weights",)
"""Options that let something doubtful pass: they are for one run, and never set once for all."""

ENVIRONMENT = Env(PREFIX, command=False, show=False)

HELP = (
    "Options also come from a file and from the environment. oodline.toml in the working folder, or --config FILE, "
    'holds them by name (model = "timm:resnet50"), for all commands or in a table for one ([score]); OODLINE_MODEL is '
    "--model, and so on. A flag wins over the environment, and that over the file."
)
"""What `--help` says of it."""


@dataclass(frozen=True)
class ConfigFile:
    """Options of a file: at the top those of all commands, and in a table those of the command of that name.

    Parameters
    ----------
    path : Path
        A TOML file. Paths in it begin where the command is run, as on the command line.
    """

    path: Path

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Give the arguments of a command what neither a flag nor the environment has given; called by cyclopts."""
        if not commands or commands[0].startswith("-") or not self.path.exists():
            return
        from oodline.cli import COMMANDS
        from oodline.cli import app as root

        document, known = read_toml(self.path, "the file of options"), _names(arguments)
        hints = {name.removeprefix("--"): argument.hint for argument in arguments for name in argument.names}
        tables = {key: value for key, value in document.items() if key in COMMANDS}
        for key, value in tables.items():
            if not isinstance(value, dict):
                raise SettingError(f"`{key}` in {self.path} must be a table, [{key}]; got {value!r}.")
        top = {key: value for key, value in document.items() if key not in tables}
        others = [key for key in top if _option(key) not in known]
        if others:
            of_all = _names_of_all(root, COMMANDS)
            for key in others:
                if _option(key) not in of_all:
                    raise unknown_name(f"option in {self.path}:", key, of_all)
        own = tables.get(commands[0], {})
        for key in own:
            if _option(key) not in known:
                raise unknown_name(f"option in [{commands[0]}] of {self.path}:", key, known)
        given = {**{k: v for k, v in top.items() if _option(k) in known}, **own}
        found = {_option(key): self._checked(key, value, hints[_option(key)]) for key, value in given.items()}
        Dict(data=found, source=str(self.path), use_commands_as_keys=False)(app, commands, arguments)

    def _checked(self, key: str, value: Any, hint: Any) -> Any:
        if _option(key) in EACH_TIME:
            raise SettingError(f"`{key}` must not be in {self.path}: it is for one run. Pass --{_option(key)} REASON.")
        if isinstance(value, dict):
            try:
                return json.dumps(value)
            except TypeError as error:
                raise SettingError(f"`{key}` in {self.path} must hold no date or time; got {value}.") from error
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str | int | float):
                raise SettingError(f"`{key}` in {self.path} must be text or a number; got {text}. Put it in quotes.")
            if isinstance(text, bool) and bool not in (hint, *get_args(hint)):
                raise SettingError(
                    f"`{key}` in {self.path} must be text or a number; got {str(text).lower()}, which is for options "
                    "that are given or not."
                )
            if _option(key) == "detectors-from" or (isinstance(text, str) and _runs_code(text)):
                raise SettingError(
                    f"`{key}` in {self.path} names code to run, {text}, and a file may not. Pass --{_option(key)}, or "
                    f"set the environment variable {_variable(_option(key))}."
                )
        return value


def check_environment(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise for a variable OODLINE_* that is no option of any command, or that must not be set once for all.

    Called by cyclopts, as `ConfigFile` is.
    """
    if not commands or commands[0].startswith("-"):
        return
    set_here = {name for name in os.environ if name.startswith(PREFIX)}
    for option in EACH_TIME:
        if (name := _variable(option)) in set_here:
            raise SettingError(f"the environment variable {name} must not be set: it is for one run. Pass --{option}.")
    if others := set_here - {*map(_variable, _names(arguments)), *OTHER_VARIABLES}:
        from oodline.cli import COMMANDS
        from oodline.cli import app as root

        known = {*map(_variable, _names_of_all(root, COMMANDS)), *OTHER_VARIABLES}
        for name in sorted(others - known):
            raise unknown_name("environment variable", name, known)


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise where an option that is a whole number is given a fraction, which cyclopts would round.

    Called by cyclopts, as `ConfigFile` is, and last, so that it sees what file and environment say.
    """
    for argument in arguments:
        kinds = (argument.hint, *get_args(argument.hint))
        if int not in kinds or float in kinds:
            continue
        for token in argument.tokens:
            if "." in token.value and not _is_whole(token.value):
                raise SettingError(f"`{argument.name}` must be a whole number; got {token.value}.")


def configured(file: ConfigFile) -> tuple[Any, ...]:
    """What gives and checks options, in the order of cyclopts' `config`: what comes first wins."""
    return ENVIRONMENT, check_environment, file, check_whole_numbers


def take_config(tokens: list[str]) -> tuple[list[str], ConfigFile]:
    """The arguments without `--config FILE`, and the file that it names, or OODLINE_CONFIG does, or `oodline.toml`.

    Raises
    ------
    DataError
        There is no such file.
    SettingError
        No file is named after `--config`.

    Examples
    --------
    >>> take_config(["methods", "--json"])
    (['methods', '--json'], ConfigFile(path=...Path('oodline.toml')))
    """
    rest, path = [], os.environ.get(f"{PREFIX}CONFIG") or None
    remaining = iter(tokens)
    for token in remaining:
        if token == "--":
            rest += [token, *remaining]
        elif token == "--config" or token.startswith("--config="):
            path = token.partition("=")[2] or next(remaining, "")
            if not path:
                raise SettingError("`--config` must name a TOML file.")
        else:
            rest.append(token)
    if path is not None and not Path(path).is_file():
        raise DataError(f"there is no file {path}. Check --config and {PREFIX}CONFIG.")
    return rest, ConfigFile(FILE if path is None else Path(path))


def _names(arguments: ArgumentCollection) -> set[str]:
    return {name.removeprefix("--") for argument in arguments for name in argument.names if name.startswith("--")}


def _names_of_all(root: App, commands: Iterable[str]) -> set[str]:
    return {name for each in commands for name in _names(root[each].assemble_argument_collection())}


def _option(key: str) -> str:
    return key.replace("_", "-")


def _variable(option: str) -> str:
    return PREFIX + option.upper().replace("-", "_")


def _is_whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except ValueError:
        return False


def _runs_code(text: str) -> bool:
    return text.startswith("python:") or "trust_remote_code" in text
