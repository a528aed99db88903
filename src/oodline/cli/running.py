"""How commands run a network and what they say meanwhile: `--device`, `--dtype`, `--compile`, `--quiet`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from oodline.cli.printing import say
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.data import AnyLoader
    from oodline.detectors.base import Detector
    from oodline.model.classifier import Classifier


COMPARED = 64
"""Samples on which half precision is compared with float32."""


@Parameter(name="*", group=Group("Running", sort_key=4))
@dataclass(frozen=True)
class RunOptions:
    """How the network runs, and what is said meanwhile."""

    device: str | None = None
    """Where the network runs: cpu, cuda, cuda:1 or mps. If omitted, cuda if available, else cpu."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the forward pass computes in. In half precision it is faster on a GPU, and scores change a little: a note
    says by how much. A guard is best fitted in the dtype that it is used in."""
    compile: Annotated[bool, Parameter(negative="")] = False
    """Compile the forward pass by torch.compile, which takes a while once and pays for large data sets. A model that
    cannot be compiled runs as it is, with a warning."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Print no progress, notes or warnings; results and errors remain."""

    @property
    def progress(self) -> bool:
        """Whether progress is shown."""
        return not self.quiet

    def show_warnings(self) -> None:
        """Print warnings as one line each, without the source line that raised them; none if quiet."""
        warnings.showwarning = lambda message, *_args, **_more: self.warn(str(message))

    def warn(self, text: str) -> None:
        """Print a warning on standard error, unless quiet."""
        if not self.quiet:
            say(f"warning: {text}", file=sys.stderr)

    def refuse_half(self, where: str) -> None:
        """Raise `SettingError` where the network must run as it is."""
        if self.dtype != "float32":
            raise SettingError(f"`--dtype` must be float32 {where}; got {self.dtype}. Leave it out.")
        if self.compile:
            raise SettingError(f"`--compile` is not {where}. Leave it out.")

    def say_change(self, classifier: Classifier, loader: AnyLoader, detectors: Mapping[str, Detector]) -> None:
        """Say on standard error how half precision changes logits and scores of the first batch of a data set."""
        if self.dtype == "float32" or self.quiet:
            return
        from oodline.scoring.precision_change import precision_change

        inputs = next(iter(loader.over([loader.rows[:COMPARED]]))).inputs
        say(f"note: {precision_change(classifier, inputs, detectors)}", file=sys.stderr)
