"""`oodline report`: show a run of `oodline bench` as one self-contained HTML page, and as figures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from oodline._util.files import check_writable
from oodline.cli.checks import check_least, check_suffix
from oodline.cli.options import Json, named, print_json
from oodline.cli.parameters import DETECTOR, FLAG, OUTPUT
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import ArtifactError, SettingError
from oodline.evaluation.writing import WRITERS


def report(
    run: Path,
    *,
    output: Annotated[Path | None, OUTPUT] = None,
    detector: Annotated[list[str] | None, DETECTOR] = None,
    images: int = 8,
    data: Annotated[list[str] | None, FLAG] = None,
    bootstrap: int = 0,
    seed: int = 0,
    published: str | None = None,
    figures: Path | None = None,
    tables: Path | None = None,
    json: Json = False,
) -> None:
    """Write a benchmark run as one HTML page: tables, an adjustable threshold, curves, example images, costs.

    The page is one self-contained file and loads nothing from the internet.

    Parameters
    ----------
    run
        A folder written by `oodline bench`.
    output
        The HTML file to write. If omitted, report.html in the run's folder.
    detector
        Label of a detector to show first; repeat for several, or "all". --figures draws only these. If omitted, the
        page has the run's order, and --figures draws the first of them alone.
    images
        Number of images with the lowest, and of images with the highest scores to show of each data set; 0 for none.
    data
        New location of a data set's images, as NAME=PATH; repeat for several. If omitted, where the run read them.
    bootstrap
        Number of bootstrap resamples for 95 % confidence intervals, such as 1000; 0 for no intervals.
    seed
        Random seed for the resamples.
    published
        Show published results beside the run's: ID data and network, as cifar10/densenet100. If omitted, none.
    figures
        Also write figures for papers to this folder, each as PDF and as PNG: of the run's first detector, or of those
        that --detector names.
    tables
        Also write the tables, with intervals if any, to this file: .md, .tex, .csv or .json.
    json
        Print one JSON document on standard output and nothing else.
    """
    check_least("--images", images, 0)
    check_least("--seed", seed, 0)
    check_least("--bootstrap", bootstrap, 0)
    id_data, slash, network = (published or "").partition("/")
    if published is not None and not (id_data and slash and network):
        raise SettingError(f"`--published` must be ID data and network, such as cifar10/densenet100; got {published}.")
    if not run.is_dir():
        raise ArtifactError(f"there is no folder {run}. Pass one that `oodline bench` wrote.")
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

    RunOptions().show_warnings()
    finished = read_run(run)
    if detector and "all" in detector:  # as in bench: the rest
        detector = list(dict.fromkeys([*(name for name in detector if name != "all"), *finished.record.detectors]))
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
        say(f"without images of {name}: {reason}")
    say(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {len(gallery.pictures)} pictures); open it in a browser")
    if figures is not None:
        say(f"wrote {len(drawn)} figures to {figures}")
    if tables is not None:
        say(f"wrote {tables}")
