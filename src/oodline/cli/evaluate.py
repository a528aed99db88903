"""`oodline evaluate`: compare the detectors of a guard file on ID and OOD data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from oodline._util.files import check_writable
from oodline.cli.checks import (
    check_data,
    check_guard,
    check_least,
    check_model,
    check_reading,
    check_suffix,
    load_detectors,
)
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    Json,
    ModelOptions,
    load_classifier,
    named,
    open_loader,
    print_json,
    report_skipped,
    table_console,
)
from oodline.cli.parameters import FLAG, OUTPUT
from oodline.cli.running import RunOptions
from oodline.errors import SettingError
from oodline.evaluation.writing import WRITERS

if TYPE_CHECKING:
    from oodline.data import AnyLoader
    from oodline.evaluation.scored_sets import ScoredSets
    from oodline.evaluation.table import Table

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()
_SCORES, _GROUPS = ".parquet", ("near", "far")
_Sets = Annotated[list[str] | None, FLAG]


def evaluate(
    guard: Path,
    *,
    id: str | None = None,
    ood: _Sets = None,
    near: _Sets = None,
    far: _Sets = None,
    csid: _Sets = None,
    mixed: _Sets = None,
    output: Annotated[list[Path] | None, OUTPUT] = None,
    convention: Literal["exact", "paper"] = "exact",
    bootstrap: int = 0,
    seed: int = 0,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Compare the detectors of a guard file: AUROC and FPR@95TPR on every OOD data set.

    The network runs once over each data set. A mean weights every OOD data set equally; a pooled column weights every
    image equally, with one threshold for all.

    Parameters
    ----------
    guard
        A guard file, written by `oodline fit` or `Guard.save`.
    id
        ID test data, in any form that `oodline score` accepts. May be omitted with --mixed.
    ood
        An OOD data set, as PATH or NAME=PATH; repeat for several.
    near
        A near-OOD data set, as for --ood; the table then also shows the mean over near-OOD data sets.
    far
        A far-OOD data set, as for --ood; the table then also shows the mean over far-OOD data sets.
    csid
        A covariate-shifted ID data set, as for --ood. A second table counts it as ID (full-spectrum OOD detection).
    mixed
        For a guard of pixels: images with ID and OOD pixels, as FOLDER,masks=MASKS or NAME=FOLDER,masks=MASKS, where a
        mask is 0 for ID, 1 for OOD, and anything else for what is left out; repeat for several. The metrics are then
        of pixels, in a table of their own.
    output
        Also write the table to this file (.md, .tex, .csv or .json), or the scores of every image (.parquet); repeat
        for several.
    convention
        How to compute the metrics: exact, or paper, which treats ties and areas as the code of the LINe, DICE and
        ReAct papers does.
    bootstrap
        Number of bootstrap resamples for 95 % confidence intervals, such as 1000; 0 for no intervals.
    seed
        Random seed for the resamples.
    json
        Print one JSON document on standard output and nothing else.
    """
    check_reading(reading)
    check_least("--seed", seed, 0)
    if bootstrap not in (0,) and bootstrap < 2:
        raise SettingError(f"`--bootstrap` must be at least 2, or 0 for no intervals; got {bootstrap}.")
    for path in output or ():
        check_suffix("--output", path, WRITERS if mixed else (*WRITERS, _SCORES))
        check_writable(path)
    of_images = bool(ood or near or far or csid or id is not None or not mixed)
    if of_images and not (ood or near or far):
        raise SettingError("there is no OOD data set. Name one: --ood PATH, --near PATH or --far PATH.")
    if of_images and id is None:
        raise SettingError("there is no ID test data. Name it: --id PATH.")
    if of_images and mixed:
        raise SettingError("--mixed makes a table of pixels, and --ood one of images. Make them one after the other.")
    given = {"": ood or [], "near": near or [], "far": far or [], "csid": csid or []}
    specs = named([spec for listed in given.values() for spec in listed])
    check_guard(guard)
    check_model(model, needed=False)
    pixels = named(mixed or [])
    if pixels and bootstrap:
        raise SettingError(
            "`--bootstrap` must be 0 with --mixed: pixels of one image resemble each other, and are not drawn by "
            f"themselves; got {bootstrap}. Leave it out."
        )
    check_data(id, *specs.values(), *pixels.values())
    load_detectors(detectors_from)

    from oodline.evaluation.bootstrap import Bootstrap
    from oodline.evaluation.evaluate import convention_of, score_sets, tabulate_sets
    from oodline.evaluation.evaluate_rows import evaluate_rows
    from oodline.guard.artifact import read_artifact
    from oodline.model.rows.row_classifier import RowClassifier

    running.show_warnings()
    drawing = Bootstrap(bootstrap, seed=seed) if bootstrap else None
    rest = iter(specs)
    names = {role: list(islice(rest, len(listed))) for role, listed in given.items()}
    artifact = read_artifact(guard)
    loaded = load_classifier(model, artifact, id, running=running)
    if id is None:
        loaders = {name: open_loader(spec, loaded, reading) for name, spec in pixels.items()}
        if not isinstance(loaded.classifier, RowClassifier):
            raise SettingError(
                "--mixed is for a guard of pixels, and this one has one decision per input. Leave it out."
            )
        table = evaluate_rows(artifact.detectors, loaded.classifier, loaders, progress=running.progress)
        _show(table, None, loaders, output, running, as_json=json)
        return
    classes = artifact.class_names or loaded.class_names
    ours = dict.fromkeys(names["csid"], classes)  # labels of OOD images are not the classifier's
    loaders = {
        name: open_loader(spec, loaded, reading, class_names=ours.get(name), labelled=name in ours)
        for name, spec in specs.items()
    }
    id_loader = open_loader(id, loaded, reading, class_names=classes)
    running.say_change(loaded.classifier, id_loader, artifact.detectors)
    sets = score_sets(
        artifact.detectors,
        loaded.classifier,
        id_loader,
        {name: loaders[name] for role in ("", *_GROUPS) for name in names[role]},
        csid_loaders={name: loaders[name] for name in names["csid"]},
        groups={group: names[group] for group in _GROUPS if names[group]},
        progress=running.progress,
    )
    table = tabulate_sets(sets, convention=convention_of(convention), bootstrap=drawing)
    _show(table, sets, {"id": id_loader, **loaders}, output, running, as_json=json)


def _show(
    table: Table,
    sets: ScoredSets | None,
    loaders: Mapping[str, AnyLoader],
    output: Sequence[Path] | None,
    running: RunOptions,
    *,
    as_json: bool,
) -> None:
    from oodline.evaluation.rendering import print_table
    from oodline.evaluation.scored_sets import write_scores
    from oodline.evaluation.writing import write_table

    skipped = report_skipped(loaders, running)
    for path in output or ():
        if path.suffix != _SCORES:
            write_table(table, path)
        elif sets is not None:
            write_scores(sets, path)
    if as_json:
        print_json(table.to_dict() | {"skipped": skipped})
        return
    print_table(table, table_console())
