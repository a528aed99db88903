"""The report of a run as one HTML file that needs nothing else: no network, no server, no other file.

Text from the run is escaped by the template. A content security policy in the page lets no script run but its own two,
known by their digests, and lets nothing be loaded, so that a name in the data can be neither code nor a request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from oodline._util.digests import digest
from oodline._util.files import write_atomically
from oodline._version import __version__
from oodline.errors import missing_extra
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.record import timestamp
from oodline.evaluation.run import Run
from oodline.report.contents import id_name, ordered, others, read_contents
from oodline.report.gallery import Gallery, gather
from oodline.report.views import comparisons, metric_tables, script_data, settings_text, size_text


def write_page(
    run: Run,
    path: str | Path,
    *,
    detectors: Sequence[str] | None = None,
    images: int = 8,
    data: Mapping[str, str] | None = None,
    bootstrap: Bootstrap | None = None,
    published: tuple[str, str] | None = None,
    progress: bool = False,
) -> Gallery:
    """Write the page of a run.

    Parameters
    ----------
    run : Run
        As `read_run` reads it.
    path : str or Path
        The HTML file to write.
    detectors : sequence of str, optional
        Labels that come first; the page begins with the first of them.
    images : int
        So many of the most and of the least OOD images of each set; 0 for no gallery.
    data : mapping of str to str, optional
        Where the images of a set are now, by its name.
    bootstrap : Bootstrap, optional
        With it, the tables have confidence intervals.
    published : tuple of str, optional
        ID data and network, such as ("cifar10", "densenet100"): published numbers are set beside the run's.
    progress : bool
        Show progress on standard error.

    Returns
    -------
    Gallery
        The pictures that are in the page, and which are missing.

    Raises
    ------
    MissingExtraError
        jinja2 or plotly is not installed.
    UnknownNameError
        There is no such detector, set, or published ID data.
    DataError
        The file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     gallery = write_page(toy_run(f"{folder}/run"), f"{folder}/report.html")
    ...     "<h1>toy</h1>" in Path(f"{folder}/report.html").read_text()
    True
    """
    page, gallery = render(run, detectors, images, data, bootstrap, published, progress)
    write_atomically(path, lambda file: file.write(page.encode()))
    return gallery


def render(
    run: Run,
    detectors: Sequence[str] | None = None,
    images: int = 8,
    data: Mapping[str, str] | None = None,
    bootstrap: Bootstrap | None = None,
    published: tuple[str, str] | None = None,
    progress: bool = False,
) -> tuple[str, Gallery]:
    """The page as text, and its gallery; parameters and errors as `write_page`."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_extra(str(error.name), "report", "reports") from error
    labels = ordered(run, detectors)
    gallery = gather(run, labels, images=images, data=data)
    contents = {label: read_contents(run, label) for label in labels}
    table = run.table(bootstrap, progress=progress) if run.sets("ood") else None
    compared = [] if published is None or table is None else comparisons(run, table, *published)
    environment = Environment(
        loader=PackageLoader("oodline.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"settings": settings_text, "size": size_text, "timestamp": timestamp}
    scripts = [get_plotlyjs(), _asset("page.js")]
    page = environment.get_template("page.html.jinja").render(
        run=run,
        record=run.record,
        id_name=id_name(run),
        others=others(run),
        first=next(iter(run.sets("ood")), None),
        labels=labels,
        tables=[] if table is None else metric_tables(table),
        bootstrap=bootstrap,
        compared=compared,
        metrics=METRICS,
        gallery=gallery,
        images=images,
        labelled=run.correct() is not None,
        data=script_data(run, contents, gallery),
        policy=_policy(scripts),
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        version=__version__,
    )
    return page, gallery


def _asset(name: str) -> str:
    return (files("oodline.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    hashes = (base64.b64encode(bytes.fromhex(digest(script))).decode() for script in scripts)
    allowed: dict[str, Any] = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",  # plotly places its drawings by style attributes
        "script-src": " ".join(f"'sha256-{each}'" for each in hashes),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())
