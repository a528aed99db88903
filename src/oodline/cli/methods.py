"""`oodline methods`: list the detectors."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from oodline.cli.checks import load_detectors
from oodline.cli.options import DetectorsFrom, Json, print_json
from oodline.errors import DetectorError


def methods(
    *,
    markdown: Annotated[bool, Parameter(negative="")] = False,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """List the detectors: paper, which outputs of the classifier each reads, and settings with their defaults.

    Parameters
    ----------
    markdown
        Print a Markdown page, the same as docs/methods.md.
    json
        Print one JSON document on standard output and nothing else.
    """
    load_detectors(detectors_from)

    from oodline.detectors.catalog import detector_names

    rows: list[dict[str, Any]] = []
    for name in detector_names():
        try:
            rows.append(describe_method(name, state=json or markdown))
        except DetectorError as error:  # one of another package, which need not stop the others
            print(f"warning: {error}", file=sys.stderr)
    if json:
        print_json(rows)
        return
    if markdown:
        print(page(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for row in rows:
        settings = ", ".join(f"{k}={v}" for k, v in row["settings"].items() if v is not None)
        arxiv = f", arXiv {row['arxiv']}" if row["arxiv"] else ""
        paper = f"{row['paper']} ({row['venue']}{arxiv})" if row["paper"] else row["class"]
        reads = f"reads {', '.join(row['needs'])}; {'fitted on ID data' if row['fitted'] else 'needs no fitting'}"
        lines = [paper, reads, f"settings: {settings}"] if settings else [paper, reads]
        if row["assumes"]:
            lines.append(f"assumes: {'; '.join(row['assumes'])}")
        if row["not_exportable"]:
            lines.append(f"no graph: {row['not_exportable']}")
        if row["presets"]:
            lines.append(f"presets: {', '.join(row['presets'])}")
        if row["experimental"]:
            lines.append(f"experimental: {row['experimental']}")
        table.add_row(f"[bold]{row['name']}[/bold]", "\n".join(lines))
        table.add_row()
    Console(highlight=False).print(table)
    print("A higher score always means more in-distribution.")
    print("Settings are written --detector NAME,setting=value or NAME,preset=PRESET.")


def describe_method(name: str, *, state: bool) -> dict[str, Any]:
    """Paper, needs and settings of a detector; with `state`, also the shapes of its fitted tensors."""
    import torch

    from oodline.cli.state import state_shapes
    from oodline.detectors.catalog import CATALOG, detector_class
    from oodline.detectors.registry import home_of
    from oodline.model.classifier import Classifier
    from oodline.model.head import LinearHead

    cls = detector_class(name)
    example = cls()
    asked = cls()
    asked.use_classifier(Classifier(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(2, 2))))
    statistics = asked.statistics(LinearHead(torch.ones(2, 2), torch.zeros(2)))
    row = {
        "name": name,
        "class": f"oodline.{cls.__name__}" if name in CATALOG else home_of(cls),
        "paper": None if cls.paper is None else cls.paper.title,
        "venue": None if cls.paper is None else cls.paper.venue,
        "arxiv": None if cls.paper is None else cls.paper.arxiv,
        "needs": [flag.name.lower().replace("_", " ") for flag in cls.needs if flag.name],
        "fitted": bool(cls.fitted_tensors),
        "statistics": [type(statistic).__name__ for statistic in statistics.values()],
        "settings": {k: p.default for k, p in inspect.signature(cls).parameters.items()},
        "not_exportable": example.why_not_exportable,
        "presets": {key: {**p.settings, "source": p.source} for key, p in cls.presets.items()},
        "experimental": cls.experimental or None,
        "assumes": [each.words for each in cls.assumes],
    }
    return row | {"state": state_shapes(example)} if state else row


def page(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown page."""
    from oodline.cli.state import LETTERS
    from oodline.detectors.catalog import CATALOG

    letters = "; ".join(f"{letter}: {meaning}" for letter, meaning in LETTERS.items())
    lines = [
        "# The detectors",
        "",
        f"Printed by `oodline methods --markdown`: {len(rows)} of them. A higher score always means more",
        "in-distribution. The state is what a fitted one keeps and a file holds, with the shape of each tensor.",
        f"{letters}; a setting's name: its value.",
        "What exports becomes one graph with the classifier (`oodline export`). Where training data contradicts what a",
        "method assumes, the fit warns, with the number.",
        "",
        "| name | paper | reads | assumes | fitted from | state | exports | settings | presets |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        link = f" [arXiv {row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})" if row["arxiv"] else ""
        cells = [
            f"`{row['name']}`",
            f"{row['paper']} ({row['venue']}){link}" if row["paper"] else "ours" if row["name"] in CATALOG else "-",
            ", ".join(row["needs"]),
            "; ".join(row["assumes"]),
            ", ".join(row["statistics"]) or "nothing",
            "; ".join(f"{name} {shape}" for name, shape in row["state"].items()) or "none",
            "no" if row["not_exportable"] else "yes",
            ", ".join(f"`{k}={v}`" for k, v in row["settings"].items() if v is not None),
            ", ".join(f"`{key}`" for key in row["presets"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## What does not export, and why", ""]
    lines += [f"- `{row['name']}`: {row['not_exportable']}." for row in rows if row["not_exportable"]]
    lines += ["", "## Experimental, and why", ""]
    lines += [f"- `{row['name']}`: {row['experimental']}." for row in rows if row["experimental"]]
    return "\n".join(lines)
