"""The command line: parse, call, print. Commands are imported when they run, so `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App

from oodline._version import __version__
from oodline.errors import OodlineError

app = App(
    name="oodline",
    help="Post-hoc out-of-distribution detection for trained PyTorch classifiers, led by LINe.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command(
    "oodline.cli.demo:demo", help="The main job in under a minute, offline, on data that ships with scikit-learn."
)
app.command("oodline.cli.methods:methods", help="List the detectors: paper, what each needs, settings.")
app.command("oodline.cli.tune:tune", help="Choose a detector's settings from ID data alone, no OOD data.")
app.command("oodline.cli.fit:fit", help="Fit detectors on ID training data in one forward pass; write one file.")
app.command("oodline.cli.score:score", help="Score images with a fitted file; write one row per image.")
app.command("oodline.cli.export:export", help="Write a fitted file and its classifier as one ONNX graph.")
app.command("oodline.cli.evaluate:evaluate", help="Compare fitted detectors on ID and OOD data sets.")
app.command("oodline.cli.explain:explain", help="Say which neurons make an image what it is judged to be.")
app.command("oodline.cli.serve:serve", help="Serve a fitted file over HTTP, with a page to drop images on.")
app.command(
    "oodline.cli.watch:watch", help="Watch a stream of scores for a drift towards OOD; exits with 3 after an alarm."
)
app.command("oodline.cli.bench:bench", help="Run a benchmark file: every detector on every data set, one pass each.")
app.command(
    "oodline.cli.report:report", help="Show a benchmark's run as one page that needs no network, or as figures."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 0, 1 for an error that says what to do, 2 for wrong usage, 130 for Ctrl-C.

    `oodline watch` exits with 3 after an alarm.
    """
    try:
        app(arguments)
    except OodlineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # whoever read our output, like `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename} cannot be used: {error.strerror}. Check the path.", file=sys.stderr)
        sys.exit(1)
