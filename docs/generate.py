"""Write the reference pages of the site from the package itself: API, detectors, HTTP. Called by `conf.py`.

    python docs/generate.py

writes them to `docs/generated/`, which git ignores.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import oodline as ol
from oodline.detectors.catalog import CATALOG
from oodline.detectors.rectifier import Rectifier

HERE = Path(__file__).parent
ROOT = HERE.parent

GROUPS: dict[str, tuple[str, ...]] = {
    "Classifiers and data": (
        "Classifier",
        "FeatureClassifier",
        "from_features",
        "load_model",
        "Preprocessing",
        "TextPreprocessing",
        "Activations",
        "LinearHead",
        "LayeredHead",
        "split",
    ),
    "Pixels and boxes": (
        "RowClassifier",
        "Pixels",
        "RowVerdict",
        "evaluate_rows",
        "BoxClassifier",
        "Boxes",
        "FoundBoxes",
        "NoHead",
        "Places",
        "Lowest",
        "Mean",
    ),
    "Fitting and scoring": (
        "default_detector",
        "fit",
        "FitResult",
        "score",
        "Local",
        "Torchrun",
        "Ray",
        "create_detector",
    ),
    "Guards": (
        "Guard",
        "Verdict",
        "Calibration",
        "ClassCalibration",
        "fit_guards",
        "FittedGuards",
        "benjamini_hochberg",
    ),
    "Explaining and watching": (
        "Explanation",
        "Neurons",
        "DriftMonitor",
        "DriftReport",
        "AnswerMonitor",
        "AnswerStream",
        "find_label_errors",
        "LabelErrors",
    ),
    "Evaluating and choosing": ("evaluate", "Table", "Scores", "tune", "Tuned", "Candidate", "finetune"),
    "Detectors of your own": ("Detector", "Rectifier", "Fitted", "Needs", "Paper", "register", "from_function"),
}
"""Public names that are not detectors of the catalog, in the order of the page; what is new comes last by itself."""

MODULES = ("explain", "training", "metrics")
"""Modules of public names, each with one page."""


def write_all(folder: Path) -> None:
    """Write every generated page anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    (folder / "detectors").mkdir()
    pages = {"api/index.md": api_index(), "detectors/index.md": detector_index(), "http.md": http_page()}
    pages |= {f"api/{name}.md": api_page(name) for name in api_names()}
    pages |= {f"api/{name}.md": module_page(name) for name in MODULES}
    pages |= {f"detectors/{name}.md": detector_page(name) for name in CATALOG}
    for name, text in pages.items():
        (folder / name).write_text(text.rstrip() + "\n", encoding="utf-8")


# API


def api_names() -> list[str]:
    """Public names that have a page of their own."""
    detectors = {path.rpartition(":")[2] for path in CATALOG.values()}
    return [name for name in ol.__all__ if name not in {*detectors, "default"} and not name.startswith("__")]


def api_index() -> str:
    """All public names in groups, with the first line of each docstring."""
    names = api_names()
    warnings = tuple(name for name in names if name.endswith(("Warning", "Error")))
    placed = {name for group in GROUPS.values() for name in group}
    other = tuple(name for name in names if name not in placed and name not in warnings)
    groups = {**GROUPS, "More": other, "Errors and warnings": warnings}
    lines = [
        "# Python",
        "",
        "`import oodline as ol`. `ol.default` is `ol.default_detector`. [Detectors](../detectors/index.md) come apart.",
    ]
    for title, members in groups.items():
        present = [name for name in members if name in names]
        if not present:
            continue
        lines += ["", f"## {title}", "", "| name | |", "|---|---|"]
        lines += [f"| [`ol.{name}`]({name}.md) | {first_line(getattr(ol, name))} |" for name in present]
    lines += ["", "## Modules", "", "| module | |", "|---|---|"]
    lines += [f"| [`ol.{name}`]({name}.md) | {first_line(getattr(ol, name))} |" for name in MODULES]
    lines += ["", *toctree([*names, *MODULES])]
    return "\n".join(lines)


def module_page(name: str) -> str:
    """All public names of a module from their docstrings."""
    lines = ["```{eval-rst}", f".. automodule:: oodline.{name}", "   :members:", "```"]
    return "\n".join([f"# ol.{name}", "", *lines])


def api_page(name: str) -> str:
    """One public name from its docstring."""
    value = getattr(ol, name)
    kind = "autoclass" if isinstance(value, type) else "autofunction" if callable(value) else "autodata"
    kind = "autodata" if hasattr(value, "__metadata__") else kind  # an alias of a type has another's docstring
    options = {"autoclass": ["   :members:", "   :exclude-members: name"], "autodata": ["   :no-value:"]}.get(kind, [])
    where = f"oodline.{name}" if kind != "autodata" else f"{value.__module__}.{name}"
    return "\n".join([f"# {name}", "", "```{eval-rst}", f".. {kind}:: {where}", *options, "```"])


def first_line(value: Any) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    document = "" if hasattr(value, "__metadata__") else value.__doc__ or ""
    text = " ".join(document.strip().split("\n\n")[0].split())
    return text.replace("|", "\\|")


def toctree(names: list[str]) -> list[str]:
    """A hidden table of contents, so that the pages are in the navigation."""
    return ["```{toctree}", ":hidden:", "", *names, "```"]


# Detectors


def detector_index() -> str:
    """All detectors, each with a line."""
    lines = ["# Detectors", "", f"{len(CATALOG)} of them. A higher score always means more in-distribution."]
    lines += [
        "[Which detector?](../../which-detector.md) says what to take; [one table](../../methods.md) has all of them."
    ]
    lines += ["", "| name | what it does | paper |", "|---|---|---|"]
    for name in CATALOG:
        row = ol.describe_method(name)
        cls = getattr(ol, row.class_name.rpartition(".")[2])
        paper = row.paper.venue if row.paper else "ours"
        lines.append(f"| [`{name}`]({name}.md) | {first_line(cls)} | {paper} |")
    return "\n".join([*lines, "", *toctree(list(CATALOG))])


def detector_page(name: str) -> str:
    """What one detector is, needs, assumes, costs and reaches."""
    row = ol.describe_method(name)
    cls = getattr(ol, row.class_name.rpartition(".")[2])
    arxiv = row.paper and row.paper.arxiv
    link = f" ([arXiv {arxiv}](https://arxiv.org/abs/{arxiv}))" if arxiv else ""
    facts = {
        "paper": f"{row.paper.title}, {row.paper.venue}{link}" if row.paper else "ours",
        "reads": ", ".join(row.needs),
        "assumes": "; ".join(row.assumes) or "nothing",
        "fitted from": ", ".join(row.statistics) or "nothing",
        "state": "; ".join(f"`{key}` {shape}" for key, shape in row.state.items()) or "none",
        "exports to a graph": f"no: {row.not_exportable}" if row.not_exportable else "yes",
        "cost beside the forward pass": f"{row.cost}; {cost(name)}" if row.cost else cost(name),
    }
    if issubclass(cls, Rectifier):
        facts["scored by"] = "energy, or any detector given as `scorer=`"
    if row.experimental:
        facts["experimental"] = row.experimental
    lines = [f"# {name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]
    lines += ["", "```{eval-rst}", f".. autoclass:: oodline.{cls.__name__}", "```", ""]
    if row.presets:
        lines += ["## Presets", "", "| preset | settings | from |", "|---|---|---|"]
        for key, preset in row.presets.items():
            settings = ", ".join(f"`{k}={v}`" for k, v in preset.settings.items())
            lines.append(f"| `{key}` | {settings} | {preset.source} |")
        lines.append("")
    if numbers := areas(name):
        lines += ["## On eight networks", "", "AUROC in %, near / far, with default settings, from"]
        lines += ["[every detector on eight networks](../../results/backbones.md), which says how it was measured.", ""]
        lines += numbers
    return "\n".join(lines)


def areas(name: str) -> list[str]:
    """The row of a detector in the study of eight networks, as a table on its side."""
    rows = table_rows("backbones.md", "| detector | densenet")
    wanted = {"fuse": "default (fuse)"}.get(name, name)
    titles = rows[0]
    for cells in rows[2:]:
        if cells[0] == wanted:
            pairs = [f"| {title} | {cell} |" for title, cell in zip(titles[1:], cells[1:], strict=True) if cell]
            return ["| network | near / far |", "|---|---|", *pairs]
    return []


def cost(name: str) -> str:
    """The own time of a detector on the first network of the family's table."""
    rows = table_rows("family.md", "| detector | AUROC near")
    for cells in rows[2:]:
        if cells[0].strip("*") == name:
            return f"{float(cells[-1]):.3f} ms per image on a DenseNet-100 ([table](../../results/family.md))"
    return "not measured"


def table_rows(page: str, start: str) -> list[list[str]]:
    """The cells of the first table of a page whose first line starts so."""
    text = (HERE / "results" / page).read_text(encoding="utf-8")
    lines = text[text.index(start) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# HTTP


def http_page() -> str:
    """The paths of the service, their fields and answers, from its OpenAPI document."""
    from oodline.serve.app import create_app
    from oodline.testing import toy_image_guard

    document = create_app(toy_image_guard()).openapi()
    lines = ["# HTTP", "", "What `oodline serve` answers; the service itself says the same at `/openapi.json`.", ""]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += [
                f"## {method.upper()} `{path}`",
                "",
                operation.get("description", operation.get("summary", "")),
                "",
            ]
            if fields := operation.get("parameters"):
                lines += ["| parameter | | |", "|---|---|---|"]
                lines += [f"| `{f['name']}` | {f['in']} | {plain(f.get('description', ''))} |" for f in fields] + [""]
            if body := operation.get("requestBody"):
                lines += ["Takes " + ", ".join(f"`{kind}`" for kind in body["content"]) + ".", ""]
            lines += ["| answer | |", "|---|---|"]
            lines += [f"| {code} | {plain(answer['description'])} |" for code, answer in operation["responses"].items()]
            lines.append("")
    lines += ["## Fields of the answers", ""]
    for name, schema in document["components"]["schemas"].items():
        if properties := schema.get("properties"):
            lines += [f"### {name}", "", plain(schema.get("description", "")), "", "| field | |", "|---|---|"]
            lines += [f"| `{key}` | {plain(field.get('description', ''))} |" for key, field in properties.items()] + [
                ""
            ]
    return "\n".join(lines)


def plain(text: str) -> str:
    """A description as the cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    write_all(HERE / "generated")
