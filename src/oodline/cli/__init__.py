"""The command line: one module per command, imported only when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cyclopts import App, Group, Parameter

from oodline._version import __version__
from oodline.cli.config import FILE, HELP, ConfigFile, configured, take_config
from oodline.cli.printing import say
from oodline.errors import OodlineError

GROUPS = {
    "Use": {
        "demo": "See it work: train a small network and detect what it was never taught, offline, in a minute.",
        "methods": "List the detectors, one line each; with a name, explain one.",
        "doctor": "Examine a model: what is found, which detectors suit it, what is missing, what to type next.",
        "fit": "Learn what normal inputs look like to your classifier; write one guard file.",
        "score": "Score images with a guard file, and flag those that are unlike the training data.",
        "explain": "Show which neurons led to the verdict on an image.",
        "watch": "Watch a stream of scores, and raise an alarm when inputs drift away from the training data.",
    },
    "Deploy": {
        "export": "Write classifier and guard as one graph, for ONNX Runtime, Triton or torch.export.",
        "serve": "Serve a guard over HTTP, with a web page for trying images.",
    },
    "Research": {
        "evaluate": "Compare the detectors of a guard file on data sets of your own: AUROC and FPR.",
        "tune": "Choose a detector's settings from in-distribution data alone.",
        "finetune": "Fine-tune a classifier by a training recipe, and compare it with plain cross-entropy.",
        "bench": "Run a benchmark: many detectors on many data sets, as a TOML file describes it.",
        "report": "Turn a benchmark run into one HTML page, or into figures for a paper.",
    },
}
"""The commands by group, with one line each for `oodline --help`, which imports none of them."""

COMMANDS = {name: line for lines in GROUPS.values() for name, line in lines.items()}

app = App(
    name="oodline",
    help="Know when not to trust a trained PyTorch classifier: it returns a class for any input, and oodline detects "
    "inputs that are unlike the training data (out-of-distribution, OOD).",
    help_epilogue=HELP,
    help_format="plaintext",  # the list of commands looks the same without rich's Markdown, which is long to import
    version=__version__,
    config=configured(ConfigFile(FILE)),
    default_parameter=Parameter(env_var_split=lambda _, value, **_more: [value]),  # paths and reasons hold spaces
    suppress_keyboard_interrupt=False,
)
for _order, (_title, _lines) in enumerate(GROUPS.items(), 1):
    _group = Group(_title, sort_key=_order)
    for _place, (_name, _line) in enumerate(_lines.items()):
        app.command(f"oodline.cli.{_name}:{_name}", help=_line, group=_group, sort_key=_place)
_SHELL = Group("Shell", sort_key=len(GROUPS) + 1)
app["--help"].group = app["--version"].group = _SHELL
app.register_install_completion_command(
    help="Let your shell complete commands and options (bash, zsh, fish, PowerShell).", group=_SHELL
)


@contextmanager
def _whole_help(name: str) -> Iterator[None]:
    """Let `CMD --help` show all of a command's docstring, where `oodline --help` shows one line."""
    if name not in COMMANDS:
        yield
        return
    command = app[name]
    command.help = command.default_command.__doc__ or ""
    command.help_format = "markdown"  # lines of a docstring are joined, and what is code stands without backticks
    try:
        yield
    finally:
        command.help = COMMANDS[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0, 1 for an error that says what to do, 2 for wrong usage, 3 for an alarm of `oodline watch`, 130 for
    Ctrl-C.
    """
    try:
        tokens, file = take_config(list(sys.argv[1:] if arguments is None else arguments))
        app.config = configured(file)
        with _whole_help(tokens[0] if tokens else ""):
            app(tokens)
    except OodlineError as error:
        say(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output, such as `head`, closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        say(f"error: {error.filename} cannot be used: {error.strerror}. Check the path.", file=sys.stderr)
        sys.exit(1)
