"""`oodline methods`: list the detectors, or show all of one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from oodline.cli.checks import check_detectors, load_detectors
from oodline.cli.options import DetectorsFrom, Json, print_json, table_console
from oodline.cli.printing import say
from oodline.errors import DetectorError, SettingError

if TYPE_CHECKING:
    from oodline.detectors.description import MethodDescription


def methods(
    name: str | None = None,
    *,
    markdown: Annotated[bool, Parameter(negative="")] = False,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """List the detectors, one line each, or show all of one: formula, paper, what it reads, settings, an example.

    A detector is what gives each image one score; a higher score always means more in-distribution.

    Parameters
    ----------
    name
        The detector to show, such as line or knn. If omitted, all are listed.
    markdown
        Print a Markdown page, the same as docs/methods.md.
    json
        Print one JSON document on standard output and nothing else.
    """
    if name is not None and markdown:
        raise SettingError("--markdown is the page of all detectors. Leave out the name, or --markdown.")
    load_detectors(detectors_from)
    check_detectors([] if name is None else [name])

    from oodline.detectors.catalog import detector_names
    from oodline.detectors.description import describe_method

    if name is not None:
        one = describe_method(name)
        if json:
            print_json(one.to_dict())
        else:
            say(one)
        return
    rows: list[MethodDescription] = []
    for each in detector_names():
        try:
            rows.append(describe_method(each))
        except DetectorError as error:  # one of another package, which need not stop the others
            say(f"warning: {error}", file=sys.stderr)
    if json:
        print_json([row.to_dict() for row in rows])
    elif markdown:
        say(page(rows))
    else:
        print_list(rows)


def print_list(rows: list[MethodDescription]) -> None:
    """Print one line per detector, by what it looks at; lines end where the terminal does."""
    from oodline.detectors.groups import GROUPS, OWN

    names, venues = (max(map(len, column)) for column in zip(*((row.name, row.venue) for row in rows), strict=True))
    width = table_console().width
    for group in (*GROUPS, OWN):
        listed = [row for row in rows if row.group == group]
        if listed:
            say(group)
        for row in listed:
            line = f"  {row.name:{names}}  {row.venue:{venues}}  {row.title}"
            say(line if len(line) <= width else f"{line[: width - 3]}...")
    say("\nAll of one: oodline methods NAME. A higher score always means more in-distribution.")
    say("Settings are written --detector NAME,setting=value or NAME,preset=PRESET.")


def page(rows: list[MethodDescription]) -> str:
    """The detectors as a Markdown page."""
    from oodline.detectors.catalog import CATALOG
    from oodline.detectors.state_shapes import LETTERS

    letters = "; ".join(f"{letter}: {meaning}" for letter, meaning in LETTERS.items())
    lines = [
        "# The detectors",
        "",
        f"Printed by `oodline methods --markdown`: {len(rows)} of them. A higher score always means more",
        "in-distribution. The state is what a fitted one keeps and a file holds, with the shape of each tensor.",
        f"{letters}; a setting's name: its value.",
        "What exports becomes one graph with the classifier (`oodline export`). Where training data contradicts what a",
        "method assumes, the fit warns, with the number. What supposes one class per sample refuses a multi-label",
        "classifier.",
        "",
        "| name | paper | reads | assumes | fitted from | state | exports | settings | presets |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        arxiv = row.paper and row.paper.arxiv
        link = f" [arXiv {arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else ""
        cells = [
            f"`{row.name}`",
            f"{row.paper.title} ({row.paper.venue}){link}" if row.paper else "ours" if row.name in CATALOG else "-",
            ", ".join(row.needs),
            "; ".join(row.assumes),
            ", ".join(row.statistics) or "nothing",
            "; ".join(f"{name} {shape}" for name, shape in row.state.items()) or "none",
            "no" if row.not_exportable else "yes",
            ", ".join(f"`{k}={s.default}`" for k, s in row.settings.items() if s.default is not None),
            ", ".join(f"`{key}`" for key in row.presets),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## What does not export, and why", ""]
    lines += [f"- `{row.name}`: {row.not_exportable}." for row in rows if row.not_exportable]
    lines += ["", "## Experimental, and why", ""]
    lines += [f"- `{row.name}`: {row.experimental}." for row in rows if row.experimental]
    return "\n".join(lines)
