"""`oodline finetune`: what a training recipe would gain on a classifier, beside plain cross-entropy for as long."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

from oodline.cli.checks import (
    check_data,
    check_detectors,
    check_fraction,
    check_least,
    check_model,
    check_reading,
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
)
from oodline.cli.parameters import DETECTOR, FLAG, OUTPUT
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import SettingError

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()
_Sets = Annotated[list[str] | None, FLAG]


def finetune(
    *,
    data: str,
    recipe: str,
    epochs: int,
    output: Annotated[Path, OUTPUT],
    auxiliary: str | None = None,
    held_out: str | None = None,
    accuracy_lost: float = 0.02,
    test: str | None = None,
    near: _Sets = None,
    far: _Sets = None,
    detector: Annotated[list[str] | None, DETECTOR] = None,
    learning_rate: float | None = None,
    flip: Annotated[bool, FLAG] = False,
    shift: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Fine-tune a classifier by a training recipe, and by plain cross-entropy for as long; compare both with it.

    Writes a folder with both checkpoints (.safetensors), the table and the record. A command that was ended goes on
    from its last whole epoch when it is repeated.

    Parameters
    ----------
    data
        ID training data with labels, in any form that `oodline fit` accepts.
    recipe
        logit-norm, t2f-norm, ascood, ascood-random, ascood-gradient, ascood-gaussian, abet, alpa, outlier-exposure,
        energy-margin, greg, greg-plus, rna, imood or cross-entropy; with settings of its loss, if wanted:
        logit-norm,temperature=0.1.
    epochs
        Passes over the training data, of each training.
    output
        The folder to write.
    auxiliary
        Outliers to train on, for outlier-exposure, energy-margin, greg, greg-plus, rna and imood. None of them may be
        in a set of --near or --far.
    held_out
        ID data with labels that is neither trained nor tested on: the accuracy on it is watched after each epoch.
    accuracy_lost
        End a training once it has lost more than this share of accuracy on --held-out; the weights before that epoch
        are kept. Where that was the first epoch, table and record say "no epoch kept".
    test
        ID test data with labels, for the table.
    near
        A near-OOD data set, as PATH or NAME=PATH; repeat for several.
    far
        A far-OOD data set, as for --near.
    detector
        A detector of the table, with settings if wanted; repeat for several. If omitted, the default and others that
        read features and logits alone.
    learning_rate
        At the start of the training. If omitted, the recipe's own.
    flip
        Mirror training images at random, left to right.
    shift
        Move training images at random by up to this many pixels.
    bootstrap
        Number of bootstrap resamples for 95 % confidence intervals in the table and the record, such as 1000; 0 for
        none.
    seed
        Random seed.
    json
        Print one JSON document on standard output and nothing else.
    """
    check_reading(reading)
    check_least("--epochs", epochs, 1)
    check_least("--shift", shift, 0)
    check_least("--seed", seed, 0)
    check_fraction("--accuracy-lost", accuracy_lost)
    if (near or far) and test is None:
        raise SettingError("there is OOD data, and no ID test data beside it. Pass --test PATH.")
    given = {"near": near or [], "far": far or []}
    specs = named([spec for listed in given.values() for spec in listed])
    load_detectors(detectors_from)
    check_detectors(detector or [])
    check_model(model)
    check_data(data, auxiliary, held_out, test, *specs.values())

    from oodline._util.folders import check_replaceable
    from oodline.cli.detectors import create_all
    from oodline.training.finetune import MARKER
    from oodline.training.finetune import finetune as train
    from oodline.training.recipe import recipe_of
    from oodline.training.shuffled import Shuffled

    running.show_warnings()
    check_replaceable(output, MARKER)
    chosen = recipe_of(recipe)
    loaded = load_classifier(model, data=data, running=running)
    train_loader = open_loader(data, loaded, reading, class_names=loaded.class_names)
    theirs = train_loader.source.class_names or loaded.class_names
    wanted = {"data": data, "auxiliary": auxiliary, "held-out": held_out, "test": test, **specs}
    ours = {"held-out": theirs, "test": theirs}
    loaders = {
        name: open_loader(spec, loaded, reading, class_names=ours.get(name))
        for name, spec in wanted.items()
        if spec is not None and name != "data"
    }
    rest = iter(specs)
    groups = {role: list(islice(rest, len(listed))) for role, listed in given.items() if listed}
    outliers = loaders.get("auxiliary")
    called = {"classifier": loaded.reference, "train": data, "auxiliary": auxiliary, "held_out": held_out, "test": test}
    called |= {f"ood/{name}": spec for name, spec in specs.items()}
    found = train(
        loaded.classifier,
        Shuffled(train_loader, flip=flip, shift=shift),
        chosen,
        epochs=epochs,
        auxiliary=None if outliers is None else Shuffled(outliers, flip=flip, shift=shift),
        held_out=loaders.get("held-out"),
        accuracy_lost=accuracy_lost,
        test=loaders.get("test"),
        ood={name: loaders[name] for name in specs},
        groups=groups,
        detectors=create_all(detector) if detector else None,
        bootstrap=bootstrap or None,
        learning_rate=learning_rate,
        seed=seed,
        dtype=running.dtype,
        names={name: spec for name, spec in called.items() if spec is not None},
        output=output,
        progress=running.progress,
    )
    skipped = report_skipped({"data": train_loader, **loaders}, running)
    if json:
        print_json(found.to_dict() | {"skipped": skipped})
        return
    less = "shift images less (--shift), " if shift else ""
    say(found.to_text(f"Lower --learning-rate, {less}or raise --accuracy-lost."))
    say(f"\nwrote {output}")
