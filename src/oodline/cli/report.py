"""`oodline report`: a run of `oodline bench` as one page that needs no network, and as figures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodline._util.files import check_writable
from oodline.cli.checks import check_least, check_suffix
from oodline.cli.options import Json, named, print_json, show_warnings
from oodline.errors import ArtifactError, SettingError
from oodline.evaluation.writing import WRITERS


def report(
    run: Path,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    detector: Annotated[list[str] | None, Parameter(name=["--detector", "-d"], negative="")] = None,
    images: int = 8,
    data: Annotated[list[str] | None, Parameter(negative="")] = None,
    bootstrap: int = 0,
    seed: int = 0,
    published: str | None = None,
    figures: Path | None = None,
    tables: Path | None = None,
    json: Json = False,
) -> None:
    """Write a run as one HTML file: tables, a threshold to move, curves, the most and least OOD images, costs.

    The file holds all that it shows, and asks the network for nothing.

    Parameters
    ----------
    run
        The folder that `oodline bench` wrote.
    output
        The file to write. If omitted, report.html in the run's folder.
    detector
        A detector of the run that comes first, by its label; repeat it for several. Figures are of these only.
    images
        So many of the most and of the least OOD images of each set; 0 for none.
    data
        Where a set's images are now, as NAME=PATH, if not where the run read them; repeat it for several.
    bootstrap
        Resamples for 95 % confidence intervals, such as 1000; 0 for none.
    seed
        Of the resamples.
    published
        ID data and network, such as cifar10/densenet100, to set published numbers beside the run's.
    figures
        Also write figures for papers to this folder, each as PDF and PNG.
    tables
        Also write the tables, with the intervals, to this file: .md, .tex, .csv or .json.
    json
        Print one JSON document on standard output, and nothing else there.
    """
    check_least("--images", images, 0)
    check_least("--seed", seed, 0)
    check_least("--bootstrap", bootstrap, 0)
    id_data, slash, network = (published or "").partition("/")
    if published is not None and not (id_data and slash and network):
        raise SettingError(f"--published takes ID data and network, such as cifar10/densenet100; not {published}.")
    if not run.is_dir():
        raise ArtifactError(f"{run} is not a finished run: there is no such folder. Name one of `oodline bench`.")
    path = output or run / "report.html"
    check_writable(path)
    if tables is not None:
        check_suffix("--tables", tables, WRITERS)
        check_writable(tables)

    from oodline.evaluation.bootstrap import Bootstrap
    from oodline.evaluation.run import read_run
    from oodline.evaluation.writing import write_table
    from oodline.report.figures import write_figures
    from oodline.report.page import write_page

    show_warnings()
    finished = read_run(run)
    drawing = Bootstrap(bootstrap, seed=seed) if bootstrap else None
    gallery = write_page(
        finished,
        path,
        detectors=detector,
        images=images,
        data=named(data or []),
        bootstrap=drawing,
        published=(id_data, network) if published else None,
        progress=True,
    )
    drawn = [] if figures is None else write_figures(finished, figures, detectors=detector)
    if tables is not None:
        write_table(finished.table(drawing, progress=True), tables)
    if json:
        print_json(
            {
                "output": str(path),
                "bytes": path.stat().st_size,
                "pictures": len(gallery.pictures),
                "without_images": gallery.missing,
                "figures": [str(figure) for figure in drawn],
                "tables": None if tables is None else str(tables),
            }
        )
        return
    for name, reason in gallery.missing.items():
        print(f"without images of {name}: {reason}")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {len(gallery.pictures)} pictures); open it in a browser")
    if figures is not None:
        print(f"wrote {len(drawn)} figures to {figures}")
    if tables is not None:
        print(f"wrote {tables}")
