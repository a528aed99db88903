"""How options that several commands have are written: `--output`, `--detector`, and flags without a `--no-` form."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

FLAG = Parameter(negative="")
"""An option that is given or not, or several times: there is no `--no-NAME` and no `--empty-NAME`."""

OUTPUT = Parameter(name=["--output", "-o"], negative="")
DETECTOR = Parameter(name=["--detector", "-d"], negative="")

FileDetector = Annotated[
    str | None, Parameter(name=DETECTOR.name, help="Name of the detector in the file. If omitted, the first.")
]
"""One of the detectors that a guard file holds."""
