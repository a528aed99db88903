"""`oodline doctor`: examine a model before anything is fitted, and say what to type next."""

from __future__ import annotations

import shlex
from dataclasses import replace

from oodline.cli.checks import check_data, check_fraction, check_model, check_reading, load_detectors
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    report_skipped,
)
from oodline.cli.printing import say
from oodline.cli.running import RunOptions

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()

LIMIT = 300
"""Number of images read from each data set if `--limit` is omitted."""

PREPROCESSING = '{"resize": ..., "crop": ..., "mean": [...], "std": [...]}'
"""What the next command has to say where nothing says how images are prepared."""


def doctor(
    name: str | None = None,
    *,
    data: str | None = None,
    calibrate: str | None = None,
    false_alarm: float = 0.05,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Examine a model: head, preprocessing, features, which detectors suit it, what is missing, what to type next.

    Nothing is written. Exit code: 0, or 1 if the model cannot be used, with the reason.

    Parameters
    ----------
    name
        The classifier: timm:NAME, torchvision:NAME, hf:NAME or python:FILE_OR_MODULE:FACTORY. The same as --model.
    data
        ID training data with labels, in any form that `oodline fit` accepts; 300 images are read, or --limit. If
        omitted, nothing is said of features, and little of detectors.
    calibrate
        Held-out ID data, of which only the number is looked at.
    false_alarm
        The false-alarm rate that the guard is to promise.
    json
        Print one JSON document on standard output and nothing else.
    """
    model = model if name is None else replace(model, model=name)
    check_fraction("--false-alarm", false_alarm)
    check_reading(reading)
    load_detectors(detectors_from)
    check_model(model)
    check_data(data, calibrate)

    from oodline.guard.doctor import doctor as examine

    running.show_warnings()
    loaded = load_classifier(model, data=data, running=running)
    some = replace(reading, limit=reading.limit or LIMIT)
    loader = None if data is None else open_loader(data, loaded, some, class_names=loaded.class_names)
    held_out = None if calibrate is None else open_loader(calibrate, loaded, reading, class_names=loaded.class_names)
    found = examine(loaded.classifier, loader, held_out, false_alarm=false_alarm)
    report_skipped({} if loader is None else {"data": loader}, running)
    if loaded.classifier.preprocessing is None and not loaded.of_features:
        model = replace(model, preprocessing=PREPROCESSING)
    commands = next_commands(model, data, calibrate, false_alarm, reading, loaded.preprocessing.unit)
    if json:
        print_json({"model": loaded.reference, **found.to_dict(), "next": commands})
        return
    say(found)
    if not running.quiet:
        say("next:")
        for command in commands:
            say(f"  {command}")


def next_commands(
    model: ModelOptions,
    data: str | None,
    calibrate: str | None,
    false_alarm: float,
    reading: DataOptions = _DATA,
    unit: str = "images",
) -> list[str]:
    """What to type next, with the options that were given.

    Examples
    --------
    >>> for command in next_commands(ModelOptions(model="timm:resnet50"), "train", None, 0.01):
    ...     print(command)
    oodline fit --model timm:resnet50 --data train --calibrate HELD_OUT --false-alarm 0.01 -o guard.safetensors
    oodline score guard.safetensors IMAGES -o scores.parquet
    """
    assert model.model is not None
    given = ["--model", model.model]
    for option, value in (("--weights", model.weights), ("--head", model.head)):
        given += [] if value is None else [option, str(value)]
    given += ["--binary"] if model.binary else []
    given += [] if model.task is None else ["--task", model.task]
    prepared = [] if model.preprocessing is None else ["--preprocessing", model.preprocessing]
    columns = []
    for option, name in (("--text-column", reading.text_column), ("--label-column", reading.label_column)):
        columns += [] if name is None else [option, name]
    fit = [*given, *prepared, *columns, "--data", data or "TRAINING_DATA", "--calibrate", calibrate or "HELD_OUT"]
    fit += [] if false_alarm == 0.05 else ["--false-alarm", f"{false_alarm:g}"]
    # a file may not say which code to run, so that it is named again; preprocessing is in the file
    again = [*(given if model.model.startswith("python:") else []), *columns[:2] * (reading.text_column is not None)]
    return [
        shlex.join(["oodline", "fit", *fit, "-o", "guard.safetensors"]),
        shlex.join(["oodline", "score", "guard.safetensors", unit.upper(), *again, "-o", "scores.parquet"]),
    ]
