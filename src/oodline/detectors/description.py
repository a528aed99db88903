"""What a detector is, for people: formula, paper, what it reads and assumes, settings, state, cost, an example.

All of it is read from the class and its docstring; `oodline methods` prints it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from oodline._util.arguments import hints_of, words
from oodline._util.checked import checked
from oodline._util.docstring import Docstring
from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, detector_class
from oodline.detectors.groups import group_of
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.registry import home_of
from oodline.detectors.state_shapes import state_shapes
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import LinearHead

WIDTH = 100
"""Columns of the text."""


@dataclass(frozen=True)
class Setting:
    """One setting: its default, what it accepts, and what it means."""

    default: Any
    accepts: str
    meaning: str


@dataclass(frozen=True)
class MethodDescription:
    """What `describe_method` found out about a detector; `str()` is a page of text, `to_dict()` is for JSON.

    Parameters
    ----------
    name, class_name : str
        On the command line, and in Python.
    group : str
        What it looks at, in a few words.
    summary, meaning, notes : str
        The formula in one line, what it means, and remarks, as the class documents them.
    paper : Paper, optional
        Where it comes from.
    needs : tuple of str
        What it reads of the classifier.
    statistics : tuple of str
        What it is fitted from.
    state : dict of str to str
        The tensors that a fitted one keeps, with their shapes (`state_shapes.LETTERS`).
    assumes : tuple of str
        What it supposes of network and data.
    settings : dict of str to Setting
        Its settings, in order.
    presets : dict of str to Preset
        Settings that papers state.
    not_exportable, experimental : str
        Why it cannot become a graph, and what is uncertain about it; empty for most.
    cost : str
        What it costs beside the forward pass.

    Examples
    --------
    >>> found = describe_method("energy")
    >>> found.summary, found.settings["temperature"].default, found.settings["temperature"].accepts
    ('Negative free energy: `T * logsumexp(z / T)`. Higher = more in-distribution.', 1.0, 'a number above 0')
    """

    name: str
    class_name: str
    group: str
    summary: str
    meaning: str
    notes: str
    paper: Paper | None
    needs: tuple[str, ...]
    statistics: tuple[str, ...]
    state: dict[str, str]
    assumes: tuple[str, ...]
    settings: dict[str, Setting]
    presets: dict[str, Preset]
    not_exportable: str
    experimental: str
    cost: str

    @property
    def fitted(self) -> bool:
        """Whether it is fitted on ID training data."""
        return bool(self.state)

    @property
    def venue(self) -> str:
        """Where and when it was published, or that it is oodline's own or the user's."""
        return self.paper.venue if self.paper is not None else "oodline" if self.name in CATALOG else "-"

    @property
    def title(self) -> str:
        """The summary without what all summaries say; the class where it documents nothing."""
        return self.summary.removesuffix(" Higher = more in-distribution.") or self.class_name

    @property
    def example(self) -> str:
        """A command that uses it, with one of its settings where it has a plain one."""
        plain = next((f",{k}={s.default}" for k, s in self.settings.items() if type(s.default) in (int, float)), "")
        return (
            f"oodline fit --model timm:resnet50 --data train/ --calibrate held_out/ --detector {self.name}{plain} "
            "-o guard.safetensors"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, as `oodline methods --json` prints them."""
        own = asdict(self)
        return own | {
            "class": own.pop("class_name"),
            "paper": self.paper and self.paper.title,
            "venue": self.paper and self.paper.venue,
            "arxiv": self.paper and self.paper.arxiv,
            "presets": {k: {**p.settings, "source": p.source} for k, p in self.presets.items()},
            "fitted": self.fitted,
            "example": self.example,
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.name} ({self.class_name}): {self.group}"
        yield ""
        for part in filter(None, (self.summary, self.meaning)):
            yield from _paragraphs(part)
            yield ""
        arxiv = f", https://arxiv.org/abs/{self.paper.arxiv}" if self.paper and self.paper.arxiv else ""
        paper = f"{self.paper.title} ({self.paper.venue}{arxiv})" if self.paper else ""
        facts = {
            "paper": paper or ("none: it is oodline's own" if self.name in CATALOG else "none is stated"),
            "reads": ", ".join(self.needs),
            "fitted from": ", ".join(self.statistics) or "nothing",
            "assumes": "; ".join(self.assumes) or "nothing that the fit could check",
            "keeps": "; ".join(f"{name} ({shape})" for name, shape in self.state.items()) or "nothing",
            "exports": f"no: {self.not_exportable}" if self.not_exportable else "yes, to ONNX and torch.export",
            "cost": self.cost,
            "experimental": self.experimental,
        }
        for key, value in facts.items():
            if value:
                yield from _hanging(f"{key + ':':14}", value)
        yield ""
        yield "settings:" if self.settings else "settings: none"
        for name, setting in self.settings.items():
            what = f"{setting.meaning} {setting.accepts[:1].upper()}{setting.accepts[1:]}."
            yield from _hanging(f"  {name + f' = {setting.default}':24}", what.strip())
        if self.presets:
            yield ""
            yield "presets (NAME,preset=PRESET):"
            for key, preset in self.presets.items():
                written = ", ".join(f"{k}={v}" for k, v in preset.settings.items())
                yield from _hanging(f"  {key:24}", f"{written} ({preset.source})")
        if self.notes:
            yield ""
            yield "notes:"
            yield from (f"  {line}".rstrip() for line in _paragraphs(self.notes))
        yield ""
        yield "example:"
        yield f"  {self.example}"


@checked
def describe_method(name: str) -> MethodDescription:
    """Say what a detector is: formula, paper, what it reads, assumes and keeps, its settings, what it costs.

    Parameters
    ----------
    name : str
        As on the command line: of the catalog, or of an own detector that is registered.

    Raises
    ------
    UnknownNameError
        There is none of that name; the message says the nearest.
    DetectorError
        An own detector that is registered cannot be imported.

    Examples
    --------
    >>> print(describe_method("max-logit"))
    max-logit (oodline.MaxLogit): logits
    <BLANKLINE>
    The largest logit: `max_c z_c`. Higher = more in-distribution; any real number, in the units of the
    logits.
    <BLANKLINE>
    paper:        Scaling Out-of-Distribution Detection for Real-World Settings (ICML 2022,
                  https://arxiv.org/abs/1911.11132)
    reads:        logits
    ...
    """
    cls = detector_class(name)
    example, asked = cls(), cls()
    asked.use_classifier(Classifier(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(2, 2))))
    statistics = asked.statistics(LinearHead(torch.ones(2, 2), torch.zeros(2)))
    text = Docstring.of(cls)
    return MethodDescription(
        name=name,
        class_name=f"oodline.{cls.__name__}" if name in CATALOG else home_of(cls),
        group=group_of(name),
        summary=text.summary,
        meaning=text.body,
        notes=text.sections.get("Notes", ""),
        paper=cls.paper,
        needs=tuple(flag.name.lower().replace("_", " ") for flag in cls.needs if flag.name),
        statistics=tuple(type(statistic).__name__ for statistic in statistics.values()),
        state=state_shapes(example),
        assumes=tuple(each.words for each in cls.assumes),
        settings=_settings(cls, text),
        presets=dict(cls.presets),
        not_exportable=example.why_not_exportable,
        experimental=cls.experimental,
        cost=cost_of(example),
    )


def cost_of(detector: Detector) -> str:
    """What a detector costs beside the one forward pass, in words, from what it reads and keeps.

    Examples
    --------
    >>> from oodline import KNN, ODIN, Energy
    >>> cost_of(Energy())
    'lowest: from what the forward pass gives anyway; no fit'
    >>> cost_of(KNN())
    'grows with the training samples it keeps; one forward pass to fit, shared with other detectors'
    >>> cost_of(ODIN())
    'high: runs the network again, or differentiates it, for every batch; no fit'
    """
    needs, shapes = detector.all_needs, state_shapes(detector).values()
    if Needs.CLASSIFIER in needs:
        score = "high: runs the network again, or differentiates it, for every batch"
    elif any("N" in shape.split(" x ") for shape in shapes):
        score = "grows with the training samples it keeps"
    elif Needs.FEATURE_MAP in needs or Needs.LAYERS in needs:
        score = "moderate: reads more of the forward pass than its last layer"
    elif shapes or needs & (Needs.HEAD | Needs.LINEAR_HEAD):
        score = "low: some matrix products on the features"
    else:
        score = "lowest: from what the forward pass gives anyway"
    return f"{score}; {'one forward pass to fit, shared with other detectors' if shapes else 'no fit'}"


def _settings(cls: type[Detector], text: Docstring) -> dict[str, Setting]:
    hints = hints_of(cls.__init__)
    inherited = {k: v for base in reversed(cls.__mro__[1:]) for k, v in Docstring.of(base).parameters.items()}
    meanings = inherited | text.parameters
    return {
        name: Setting(parameter.default, words(hints[name]) if name in hints else "any value", meanings.get(name, ""))
        for name, parameter in inspect.signature(cls).parameters.items()
    }


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs wrapped, lists as they are written."""
    for i, paragraph in enumerate(text.split("\n\n")):
        if i:
            yield ""
        if any(line.startswith(("- ", " ")) for line in paragraph.splitlines()):
            yield from paragraph.splitlines()
        else:
            yield from _wrapped(paragraph)


def _hanging(key: str, value: str) -> Iterator[str]:
    yield from _wrapped(f"{key} {value}" if not key.endswith(" ") else f"{key}{value}", " " * len(key))


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
