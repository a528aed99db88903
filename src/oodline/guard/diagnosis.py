"""`Diagnosis`: what `doctor` found, as text and as plain values."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from oodline.model.head_name import task_of
from oodline.statistics import Backbone

MANY = 20
"""Detectors of one reason, from which on the text counts them; `to_dict` names them."""

WIDTH = 100
"""Columns of the text."""


@dataclass(frozen=True)
class HeadFacts:
    """The layer that makes the logits.

    Parameters
    ----------
    name : str
        Of the module, or a sum of such.
    kind : {"linear", "layers", "none"}
        One linear layer, several layers, or precomputed features without a head.
    classes, features : int
        C and D.
    origin : str
        How it was found.
    """

    name: str
    kind: Literal["linear", "layers", "none"]
    classes: int
    features: int
    origin: str


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found; `str()` is a page of text, `to_dict()` is for JSON.

    Parameters
    ----------
    head : HeadFacts
        The head.
    preprocessing : str
        How images are prepared, and how that is known.
    class_names : tuple of str, optional
        In the order of the logits.
    backbone : Backbone, optional
        What the features are like; None without data.
    accuracy : float, optional
        Share of labels that the classifier gets right; None without labels.
    default : str
        The default detector, as `--detector` takes it, and `reason`, why it is that one.
    fits : tuple of str
        Detectors that suit the network, as far as the data shows.
    doubtful : dict of str to str
        Those that assume what the data does not bear out, with the number.
    undecided : dict of str to str
        Those that these images are too few to say of, and why.
    unfit : dict of str to str
        Those that the classifier cannot serve, and why.
    not_exportable : dict of str to str
        Those, of the ones that can be used, that cannot become a graph, and why.
    missing : tuple of str
        What is missing for a calibrated guard, an export or a service.
    warnings : tuple of str
        What looks wrong.
    members : tuple of str
        Detectors that the default fuses.

    Examples
    --------
    >>> from oodline.guard.doctor import doctor
    >>> from oodline.testing import toy_problem
    >>> found = doctor(toy_problem()[0])
    >>> found.head.name, found.head.classes, found.head.features, found.undecided["line"]
    ('2', 3, 16, 'data is needed to try it')
    """

    head: HeadFacts
    preprocessing: str
    class_names: tuple[str, ...] | None
    backbone: Backbone | None
    accuracy: float | None
    default: str
    reason: str
    fits: tuple[str, ...]
    doubtful: dict[str, str]
    undecided: dict[str, str]
    unfit: dict[str, str]
    not_exportable: dict[str, str]
    missing: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())
    members: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)

    def _with_role(self, name: str, why: str) -> str:
        return f"{why} (alone; fused with others, the default uses it)" if name in self.members else why

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        kinds = {"linear": "one linear layer", "layers": "several layers", "none": "no head"}
        head, names = self.head, self.class_names
        size = f"{head.classes} classes x {head.features} features"
        facts = {
            "head": f"'{head.name}', {kinds[head.kind]}, {size}; {head.origin}",
            "task": "labels, any number per sample (multilabel)" if task_of(head.name) == "multilabel" else "",
            "preprocessing": self.preprocessing,
            "class names": f"{', '.join(names[:3])}, ... ({len(names)})" if names else "none: classes go by number",
            "features": self.backbone.summary if self.backbone else "not looked at: no data was given",
            "accuracy": "" if self.accuracy is None else f"{self.accuracy:.1%} of the labels",
            "default": f"{self.default}: {self.reason}" if self.reason else self.default,
            "fit": ", ".join(self.fits) or "none",
        }
        for key, value in facts.items():
            if value:
                yield from _hanging(f"{key + ':':15}", value)
        reasons = {
            "doubtful": {name: self._with_role(name, why) for name, why in self.doubtful.items()},
            "undecided": self.undecided,
            "do not fit": self.unfit,
            "do not export": self.not_exportable,
        }
        for title, each in reasons.items():
            for i, (reason, members) in enumerate(_by_reason(each).items()):
                listed = ", ".join(members) if len(members) < MANY else f"{len(members)} others"
                yield from _hanging(f"{title + ':' if not i else '':15}", f"{listed}: {reason}")
        for i, text in enumerate(self.warnings):
            yield from _hanging(f"{'warnings:' if not i else '':15}", text)
        for i, text in enumerate(self.missing or ("nothing",)):
            yield from _hanging(f"{'missing:' if not i else '':15}", text)


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return found


def _hanging(key: str, text: str) -> list[str]:
    return textwrap.wrap(f"{key}{text}", WIDTH, subsequent_indent=" " * len(key), break_on_hyphens=False)
