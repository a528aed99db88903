"""The section of a model card that says what a guard promises, on what data, and how it did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from oodline._version import __version__
from oodline.errors import DataError, missing_extra
from oodline.guard.graph import Guarded
from oodline.guard.neurons import Neurons
from oodline.scoring.class_calibration import ClassCalibration

BEGIN, END = "<!-- oodline: what follows is written anew by each push -->", "<!-- oodline: end -->"
"""Between which the section stands in a card that holds other things too."""

TITLES: Mapping[str, str] = {
    "auroc": "AUROC, % (higher is better)",
    "fpr95_id_positive": "FPR@95TPR, ID positive, % (lower is better)",
    "fpr95_ood_positive": "FPR@95TPR, OOD positive, % (lower is better)",
}
"""The tables of a card, by metric."""


class Tabulated(Protocol):
    """What a card needs of `oodline.Table`."""

    def to_markdown(self, metric: str) -> str:
        """One metric of all detectors and OOD sets."""
        ...


def section(guard: Guarded, *, data: str | None = None, table: Tabulated | None = None) -> str:
    """What the guard is, what it promises and how it did, as Markdown.

    Parameters
    ----------
    guard : Guard
        Calibrated or not.
    data : str, optional
        What it was fitted and calibrated on, in words.
    table : Table, optional
        Of `oodline.evaluate`.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> guard = ol.Guard(toy_problem()[0], ol.Energy()).calibrate(toy_problem(1)[1])
    >>> print(section(guard, data="toy data").splitlines()[4])
    An ID input is flagged with probability at most 5 %, as long as it
    """
    detector, calibration, head = guard.detector, guard.calibration, guard.classifier.head
    lines = ["## Out-of-distribution detection", "", f"`guard.safetensors` was made by oodline {__version__}.", ""]
    if reason := getattr(guard, "other_weights", None):
        lines += [
            f"It is used with other weights than it was made with, so it promises nothing: {_one_line(reason)}",
            "",
        ]
    elif calibration is None:
        lines += ["It has no threshold yet: it gives scores, and no verdicts.", ""]
    else:
        by_class = isinstance(calibration, ClassCalibration)
        each = ", for each predicted class with enough of them" if by_class else ""
        lines += [
            f"An ID input is flagged with probability at most {100 * calibration.false_alarm:g} %{each}, as long as it",
            f"comes from where the {len(calibration.scores)} held-out inputs came from (split conformal prediction).",
            "Nothing is promised of OOD inputs, nor of ID inputs once the data drifts away from the held-out data.",
            "",
        ]
    lines += ["| | |", "|---|---|", f"| detector | `{_cell(detector.name)}` |"]
    if settings := {key: " ".join(str(value).split()) for key, value in detector.settings.items() if value is not None}:
        lines.append(f"| settings | `{_cell(json.dumps(settings))}` |")
    if detector.paper is not None:
        paper = detector.paper
        link = f", [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
        lines.append(f"| paper | {_cell(paper.title)}, {_cell(paper.venue)}{link} |")
    if detector.reason:
        lines.append(f"| why these members | {_cell(detector.reason)} |")
    lines.append(f"| data | {_cell(data or 'not stated')} |")
    neurons: Neurons | None = getattr(guard, "neurons", None)
    if neurons is not None and neurons.pictures is not None:
        count = len(neurons.pictures.index)
        lines.append(f"| training images | {count} small pictures, which whoever has the file can see |")
    if calibration is not None:
        thresholds = sorted({*calibration.threshold_of(torch.arange(max(1, head.num_classes))).tolist()})
        shown = f"{thresholds[0]:.6g}" + (f" to {thresholds[-1]:.6g}, by class" if len(thresholds) > 1 else "")
        lines.append(f"| threshold | {shown}; a higher score means more in-distribution |")
    lines += [f"| classifier | {head.num_classes} classes, {head.num_features} features |", ""]
    lines = [line.replace("<!--", "&lt;!--") for line in lines]  # what is quoted neither begins nor ends a section
    for metric, title in TITLES.items() if table is not None else ():
        assert table is not None
        lines += [f"### {title}", "", table.to_markdown(metric).replace("<!--", "&lt;!--"), ""]
    lines += [
        "```python",
        "import oodline as ol",
        "",
        "guard = ol.Guard.from_pretrained(REPO_OR_FOLDER, ol.Classifier(model))  # the classifier it was fitted on",
        "verdict = guard(inputs)  # .label .score .is_ood .p_value",
        "```",
    ]
    return "\n".join(lines)


def with_section(card: str | None, text: str) -> str:
    """A card with the section in place of the one it had, or at its end; a new card where there is none.

    Raises
    ------
    MissingExtraError
        huggingface_hub is not installed.
    DataError
        The card's metadata cannot be read, its tags are not words, or its section has no end.

    Examples
    --------
    >>> first = with_section(None, "## one")
    >>> "## one" in first, "library_name: oodline" in first, with_section(first, "## one") == first
    (True, True, True)
    """
    RepoCard, YAMLError = _repo_card()
    try:
        made = RepoCard(card if card is not None else "---\nlibrary_name: oodline\n---\n")
    except (YAMLError, ValueError, TypeError) as error:
        reason = _one_line(str(error)).rstrip(".")
        raise DataError(f"the metadata of the model card cannot be read: {reason}. {_REMEDY}") from error
    tags = made.data.get("tags") or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"`tags` of the model card must be a list of words; got {tags!r}. {_REMEDY}")
    if made.text.count(BEGIN) != made.text.count(END):
        raise DataError(
            f"the section of oodline in the model card must begin with {BEGIN!r} and end with {END!r}; one of them is "
            "missing. Write it again, or remove the section."
        )
    made.data["tags"] = tags + [tag for tag in ("oodline", "ood-detection") if tag not in tags]
    block = f"{BEGIN}\n{text}\n{END}"
    kept = re.sub(f"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n\n", made.text, flags=re.DOTALL).strip()
    made.text = f"{kept}\n\n{block}\n".lstrip()
    return str(made)


_REMEDY = "Correct the block between the two lines of --- at the beginning of the card, which must be YAML."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """What may stand in a cell of a Markdown table."""
    return _one_line(text).replace("|", "\\|")


def _repo_card() -> Any:
    try:
        from huggingface_hub import RepoCard
        from yaml import YAMLError  # which huggingface_hub reads the metadata with
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", "model cards") from error
    return RepoCard, YAMLError
