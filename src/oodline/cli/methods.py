"""`oodline methods`: the catalog as a table."""

from __future__ import annotations

import inspect
from typing import Any

from oodline.cli.options import Json, print_json


def methods(*, json: Json = False) -> None:
    """List the detectors: paper, what each reads, settings with their defaults.

    Parameters
    ----------
    json
        Print one JSON document on standard output, and nothing else there.
    """
    from oodline.detectors.catalog import CATALOG, detector_class

    rows: list[dict[str, Any]] = []
    for name in CATALOG:
        cls = detector_class(name)
        defaults = {k: p.default for k, p in inspect.signature(cls).parameters.items()}
        needs = [flag.name.lower().replace("_", " ") for flag in cls.needs if flag.name]
        rows.append(
            {
                "name": name,
                "class": f"oodline.{cls.__name__}",
                "paper": cls.paper.title,
                "venue": cls.paper.venue,
                "arxiv": cls.paper.arxiv,
                "needs": needs,
                "fitted": bool(cls.fitted_buffers),
                "settings": defaults,
                "presets": {key: {**p.settings, "source": p.source} for key, p in cls.presets.items()},
            }
        )
    if json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for row in rows:
        settings = ", ".join(f"{k}={v}" for k, v in row["settings"].items() if v is not None)
        paper = f"{row['paper']} ({row['venue']}" + (f", arXiv {row['arxiv']})" if row["arxiv"] else ")")
        reads = f"reads {', '.join(row['needs'])}; {'fitted on ID data' if row['fitted'] else 'needs no fitting'}"
        lines = [paper, reads, f"settings: {settings}"] if settings else [paper, reads]
        if row["presets"]:
            lines.append(f"presets: {', '.join(row['presets'])}")
        table.add_row(f"[bold]{row['name']}[/bold]", "\n".join(lines))
        table.add_row()
    Console(highlight=False).print(table)
    print("A higher score always means more in-distribution.")
    print("Settings are written --detector NAME,setting=value or NAME,preset=PRESET.")
