"""`oodline bench`: run the benchmark that a TOML protocol file describes, and write tables and results."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from oodline._util.toml import read_toml
from oodline.cli.checks import check_detectors, check_least, check_model, load_detectors
from oodline.cli.options import DetectorsFrom, Json, ModelOptions, print_json, table_console
from oodline.cli.parameters import DETECTOR, FLAG, OUTPUT
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.evaluation.run import Run

_Sets = Annotated[list[str] | None, Parameter(negative="")]


@Parameter(name="*", group=Group("Writing a benchmark file", sort_key=2))
@dataclass(frozen=True)
class InitOptions:
    """What `--init` writes."""

    init: Annotated[bool, Parameter(negative="")] = False
    """Do not run anything, but write a commented benchmark file to edit, PROTOCOL or benchmark.toml, with what is given
    by --model, --detector, --limit, --batch-size, --data and the options below. A file that is there is kept."""
    fit: str | None = None
    """With --init: ID training data."""
    calibrate: str | None = None
    """With --init: held-out ID data for thresholds."""
    test: str | None = None
    """With --init: ID test data."""
    ood: _Sets = None
    """With --init: an OOD data set, as PATH or NAME=PATH; repeat for several."""
    near: _Sets = None
    """With --init: a near-OOD data set; repeat for several."""
    far: _Sets = None
    """With --init: a far-OOD data set; repeat for several."""


_RUN, _INIT = RunOptions(), InitOptions()


def bench(
    protocol: Path | None = None,
    *,
    output: Annotated[Path | None, OUTPUT] = None,
    data: Path | None = None,
    model: str | None = None,
    detector: Annotated[list[str] | None, DETECTOR] = None,
    cache: Path | None = None,
    no_cache: Annotated[bool, FLAG] = False,
    skip_missing: Annotated[bool, FLAG] = False,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    on_error: Literal["raise", "skip"] | None = None,
    template: InitOptions = _INIT,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Run a benchmark: fit detectors, score ID and OOD data sets, print the tables, write everything to a folder.

    The network runs once over each data set. Features and logits are cached on disk, so that a second run with other
    detectors takes seconds, and an interrupted run resumes.

    Parameters
    ----------
    protocol
        A TOML file that names classifier, data sets and detectors, such as those in protocols/. It cannot run code: a
        python: model must be given with --model. `oodline bench --init` writes one to edit.
    output
        The folder to write. If omitted, runs/NAME, after the protocol's file name. An earlier run there is replaced.
    data
        Folder that the protocol's paths of data and weights are relative to. If omitted, its `folder` entry.
    model
        The classifier: timm:NAME, torchvision:NAME, hf:NAME or python:FILE_OR_MODULE:FACTORY. If omitted, the
        protocol's.
    detector
        A detector, with settings if wanted: line,p_a=0.9, or LABEL=line,p_a=0.9 to name it in the tables; repeat for
        several, or "all". If omitted, the protocol's.
    cache
        Folder to cache features and logits in. If omitted, the user's cache folder: on Linux, $XDG_CACHE_HOME/oodline
        or ~/.cache/oodline.
    no_cache
        Neither read nor write cached features and logits.
    skip_missing
        Continue without OOD data sets that are not found; the run records which.
    limit
        Read at most this many images of each data set, evenly over classes, or the first ones if there are no labels.
        If omitted, the protocol's.
    batch_size
        Images per batch. If omitted, the protocol's.
    workers
        Worker processes that load images; 0 loads them in the main process.
    on_error
        For an image that cannot be read: stop with an error (raise), or leave it out and report how many (skip). If
        omitted, the protocol's.
    json
        Print one JSON document on standard output and nothing else.
    """
    if cache is not None and no_cache:
        raise SettingError("--cache and --no-cache contradict each other. Pass one of them.")
    check_least("--limit", limit, 1)
    check_least("--batch-size", batch_size, 1)
    check_least("--workers", workers, 0)
    load_detectors(detectors_from)
    check_detectors(detector or [], labelled=True)
    check_model(ModelOptions(model=model), needed=False)
    if template.init:
        write_file(protocol or Path("benchmark.toml"), template, model, detector, data, limit, batch_size, json=json)
        return
    if unused := [name for name, value in asdict(template).items() if value]:
        raise SettingError(f"`--{unused[0]}` is for --init; a benchmark file names its data sets itself.")
    if protocol is None:
        raise SettingError("no benchmark file is named. Write one to edit with: oodline bench --init mine.toml")
    read_toml(protocol)

    from oodline.evaluation.benchmark import run_protocol
    from oodline.evaluation.cache import default_folder
    from oodline.evaluation.protocol import parse_protocol, read_protocol
    from oodline.evaluation.run import RECORD

    running.show_warnings()
    wanted = read_protocol(protocol, folder=data, model=model)
    given = {"limit": limit, "batch_size": batch_size, "detectors": detector, "on_error": on_error}
    changes = {key: value for key, value in given.items() if value is not None}
    wanted = parse_protocol({**wanted.model_dump(), **changes}, "the command line")
    folder = output or Path("runs") / protocol.stem
    replaced = (folder / RECORD).is_file()
    run = run_protocol(
        wanted,
        folder,
        cache=None if no_cache else cache or default_folder(),
        device=running.device,
        dtype=running.dtype,
        compile=running.compile,
        workers=workers,
        skip_missing=skip_missing,
        progress=running.progress,
    )
    if json:
        print_json({"output": str(run.folder), **run.record.model_dump(mode="json", exclude={"sha256"})})
        return
    if running.quiet:
        print_tables(run)
    else:
        print_run(run, replaced=replaced)


def write_file(
    path: Path,
    template: InitOptions,
    model: str | None,
    detectors: list[str] | None,
    folder: Path | None,
    limit: int | None,
    batch_size: int | None,
    *,
    json: bool,
) -> None:
    """Write a benchmark file to edit, and say what to do with it."""
    from oodline.evaluation.template import run_command, write_template

    groups = {"": template.ood, "near": template.near, "far": template.far}
    write_template(
        path,
        model=model,
        fit=template.fit,
        calibration=template.calibrate,
        test=template.test,
        ood={group: sets for group, sets in groups.items() if sets},
        detectors=detectors,
        folder=folder or ".",
        limit=limit,
        **({} if batch_size is None else {"batch_size": batch_size}),
    )
    if json:
        print_json({"output": str(path)})
    else:
        say(f"wrote {path}. Edit it, then: {run_command(path, model)}")


def print_tables(run: Run) -> None:
    """Print the tables, if there is an OOD data set."""
    from oodline.evaluation.rendering import print_table

    if run.sets("ood"):
        print_table(run.table(), table_console())


def print_run(run: Run, *, replaced: bool = False) -> None:
    """Print the tables, with the mean of each group, and the seconds that the run took."""
    record = run.record
    say(f"{record.name}: {record.classifier.reference}, {len(record.detectors)} detectors\n")
    print_tables(run)
    for label, reason in record.failures.items():
        say(f"left out {label}: {reason}")
    for name, reason in record.missing.items():
        say(f"without {name}: {reason}")
    for each in record.warnings:
        say(f"warning: {f'{each.detector}: ' if each.detector else ''}{each.message}", file=sys.stderr)
    for s in record.sets:
        if s.skipped:
            say(f"warning: {s.skipped} unreadable images of {s.name} were skipped", file=sys.stderr)
    passes = ", ".join(f"{s.name} {s.seconds:.1f}{' from disk' if s.cached else ''}" for s in record.sets)
    say(f"seconds: {record.seconds:.1f} in all; {passes}")
    say(f"wrote {run.folder}{', in place of the earlier run there' if replaced else ''}")
    say(f"see it as a page: oodline report {run.folder}")
