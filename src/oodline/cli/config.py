"""Options from a TOML file and from the environment, so that what is the same every day is typed once.

A flag wins over an environment variable, and that over the file. A file may not say which code to run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        tables = {key: value for key, value in document.items() if key in COMMANDS}
        for key, value in tables.items():
            if not isinstance(value, dict):
                raise SettingError(f"`{key}` in {self.path} must be a table, [{key}]; got {value!r}.")
        top = {key: value for key, value in document.items() if key not in tables}
        others = [key for key in top if _option(key) not in known]
        if others:
            of_all = {name for each in COMMANDS for name in _names(root[each].assemble_argument_collection())}
            for key in others:
                if _option(key) not in of_all:
                    raise unknown_name(f"option in {self.path}:", key, of_all)
        own = tables.get(commands[0], {})
        for key in own:
            if _option(key) not in known:
                raise unknown_name(f"option in [{commands[0]}] of {self.path}:", key, known)
        given = {**{k: v for k, v in top.items() if _option(k) in known}, **own}
        found = {_option(key): self._checked(key, value) for key, value in given.items()}
        Dict(data=found, source=str(self.path), use_commands_as_keys=False)(app, commands, arguments)

    def _checked(self, key: str, value: Any) -> Any:
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if _option(key) == "detectors-from" or (isinstance(text, str) and _runs_code(text)):
                raise SettingError(
                    f"`{key}` in {self.path} names code to run, {text}, and a file may not. Pass --{_option(key)}, or "
                    f"set the environment variable {PREFIX}{_option(key).upper().replace('-', '_')}."
                )
        return json.dumps(value) if isinstance(value, dict) else value


def take_config(tokens: list[str]) -> tuple[list[str], ConfigFile]:
    """The arguments without `--config FILE`, and the file that it names, or `oodline.toml`.

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
    rest, path = [], None
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
        raise DataError(f"there is no file {path}. Check --config.")
    return rest, ConfigFile(FILE if path is None else Path(path))


def _names(arguments: ArgumentCollection) -> set[str]:
    return {name.removeprefix("--") for argument in arguments for name in argument.names if name.startswith("--")}


def _option(key: str) -> str:
    return key.replace("_", "-")


def _runs_code(text: str) -> bool:
    return text.startswith("python:") or "trust_remote_code" in text
