"""The command line: one module per command, imported only when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App

from oodline._version import __version__
from oodline.errors import OodlineError

COMMANDS = {
    "demo": "Train, fit and evaluate on a small data set, offline, in under a minute.",
    "methods": "List the detectors: paper, needs, settings.",
    "tune": "Choose a detector's settings from ID data alone, no OOD data.",
    "fit": "Fit detectors on ID training data in one forward pass; write one guard file.",
    "score": "Score images with a guard file; write one row per image.",
    "export": "Write a guard file and its classifier as one graph: ONNX or torch.export.",
    "evaluate": "Compare the detectors of a guard file on ID and OOD data sets.",
    "explain": "Show which neurons led to the verdict on an image.",
    "serve": "Serve a guard file over HTTP, with a web page for trying images.",
    "watch": "Watch a stream of scores for drift towards OOD; exit code 3 after an alarm.",
    "bench": "Run a benchmark file: all its detectors on all its data sets, one pass per data set.",
    "report": "Show a benchmark run as a self-contained HTML page, or as figures.",
}
"""The commands with one line each for `oodline --help`, which imports none of them."""

app = App(
    name="oodline",
    help="Post-hoc out-of-distribution detection for trained PyTorch classifiers, led by LINe.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
for _name, _line in COMMANDS.items():
    app.command(f"oodline.cli.{_name}:{_name}", help=_line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0, 1 for an error that says what to do, 2 for wrong usage, 3 for an alarm of `oodline watch`, 130 for
    Ctrl-C.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if tokens and tokens[0] in COMMANDS:
            command = app[tokens[0]]
            command.help = command.default_command.__doc__ or ""  # `CMD --help` shows all of it, not the one line
        app(tokens)
    except OodlineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output, such as `head`, closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename} cannot be used: {error.strerror}. Check the path.", file=sys.stderr)
        sys.exit(1)
