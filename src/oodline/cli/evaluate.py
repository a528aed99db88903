"""`oodline evaluate`: every detector of a file on ID and OOD data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from oodline.cli.options import (
    DataOptions,
    Json,
    ModelOptions,
    load_classifier,
    named,
    open_loader,
    print_json,
    report_skipped,
    show_warnings,
)
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.evaluation.evaluate import Table

_MODEL, _DATA = ModelOptions(), DataOptions()
_PRINTED = ("auroc", "fpr95_id_positive", "fpr95_ood_positive")


def evaluate(
    guard: Path,
    *,
    id: str,
    ood: list[str],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    json: Json = False,
) -> None:
    """Compare the detectors of a fitted file: AUROC and FPR@95TPR, under both conventions, on every OOD set.

    The network runs once over each data set.

    Parameters
    ----------
    guard
        A file by `oodline fit` or `Guard.save`.
    id
        ID test data.
    ood
        An OOD data set, as a path or NAME=path; repeat it for several.
    output
        Also write all metrics to this file: .csv, or .md for the printed tables.
    json
        Print one JSON document on standard output, and nothing else there.
    """
    from oodline.artifact import read_artifact
    from oodline.evaluation.evaluate import TITLES
    from oodline.evaluation.evaluate import evaluate as run
    from oodline.files import check_writable, write_atomically

    show_warnings()
    if output is not None and output.suffix not in (".csv", ".md"):
        raise SettingError(f"--output must end in .csv or .md; {output.name} does not.")
    if output is not None:
        check_writable(output)
    artifact = read_artifact(guard)
    loaded = load_classifier(model, artifact)
    sets = named(ood)
    loaders = {name: open_loader(spec, loaded.preprocessing, reading) for name, spec in sets.items()}
    id_loader = open_loader(id, loaded.preprocessing, reading)
    table = run(artifact.detectors, loaded.classifier, id_loader, loaders, progress=True)
    skipped = report_skipped({"id": id_loader, **loaders})
    if output is not None:
        markdown = "\n".join(f"{TITLES[m]}, %\n\n{table.to_markdown(m)}\n" for m in _PRINTED)
        content = table.to_csv() if output.suffix == ".csv" else markdown
        write_atomically(output, lambda file: file.write(content.encode()))
    if json:
        print_json({"rows": table.rows(), "milliseconds": table.milliseconds, "skipped": skipped})
        return
    print_table(table)


def print_table(table: Table) -> None:
    """Print AUROC and both FPR@95TPR, best values in bold."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    from oodline.evaluation.evaluate import TITLES

    console = Console(highlight=False)
    columns: list[str | None] = [*table.ood_sets, None]
    for metric in _PRINTED:
        shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown.add_column("detector", overflow="fold")
        for column in columns:
            shown.add_column(column or "mean", justify="right", overflow="fold")
        for detector in table.cells:
            cells = []
            for column in columns:
                value = table.value(detector, metric, column)
                text = f"{100 * value:.2f}"
                cells.append(f"[bold]{text}[/bold]" if value == table.best(metric, column) else text)
            shown.add_row(detector, *cells)
        console.print(f"{TITLES[metric]}, %", shown)
    if table.milliseconds:
        own = ", ".join(f"{name} {ms:.3f}" for name, ms in table.milliseconds.items())
        console.print(f"Own time of each detector beside the shared pass, ms an image: {own}\n")
    sizes = next(iter(table.cells.values()))
    print(
        f"ID images: {next(iter(sizes.values())).n_id}; OOD images: "
        + ", ".join(f"{k} {v.n_ood}" for k, v in sizes.items())
    )
