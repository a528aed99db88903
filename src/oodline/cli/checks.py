"""Check paths, names and numbers of the command line before torch is imported, which takes seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from oodline._util.files import check_writable
from oodline._util.spec import parse_reference
from oodline.detectors.catalog import is_known, unknown_detector
from oodline.errors import ArtifactError, DataError, DetectorError, ModelError, SettingError, unknown_name

if TYPE_CHECKING:
    from oodline.cli.options import DataOptions, ModelOptions

MODELS = {
    "timm": "timm:resnet50",
    "torchvision": "torchvision:resnet50",
    "hf": "hf:microsoft/resnet-50",
    "python": "python:my_models.py:build,num_classes=10",
    "features": "features:head.npz",
}
"""Where models come from, each with an example."""

ROWS = ("pixels", "boxes", "tokens")
"""What a model may have one decision of, in place of the image."""

DATA = ("list", "torchvision", "hf")
"""What may stand before the colon of a data set's name."""


def check_guard(path: Path) -> None:
    """Raise `ArtifactError` unless the path is a guard file."""
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, not a guard file. Check the path.")
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}. Check the path, or write it with `oodline fit`.")
    if not path.stat().st_size:
        raise ArtifactError(f"{path} is empty. Copy or fit it again.")


def check_guard_output(path: Path, *read: str | Path | None) -> None:
    """Raise where a guard file cannot be written there: another ending, a file that is read, or no folder for it.

    Raises
    ------
    SettingError, DataError
        As the message says.
    """
    if path.suffix != ".safetensors":
        raise SettingError(f"`--output` must end in .safetensors; got {path}.")
    check_writable(path)
    if any(other is not None and Path(other).exists() and path.exists() and path.samefile(other) for other in read):
        raise SettingError(f"`--output` must not be a file that is read; got {path}. Choose another name.")


def check_data(*specs: str | None) -> None:
    """Raise `DataError` where a data set is named by a path that is not there."""
    for spec in specs:
        if spec is None or (spec and Path(spec).exists()):
            continue
        if not spec:
            raise DataError("the name of a data set must not be empty. Name a file or folder, or torchvision:CIFAR10.")
        reference = parse_reference(spec, DATA)
        if reference.scheme in ("torchvision", "hf") or any(c in reference.name for c in "*?["):
            continue
        if not Path(reference.name).exists():
            raise DataError(
                f"there is no file or folder {reference.name}. Check the path, or name a data set, such as "
                "torchvision:CIFAR10."
            )


def check_model(options: ModelOptions, *, needed: bool = True) -> None:
    """Raise where no model is named although one is needed, or what names it could be none, or a file is not there.

    Raises
    ------
    ModelError, SettingError
        As the message says.
    """
    if options.model is None and needed:
        raise ModelError("no classifier is named. Pass --model, such as --model timm:resnet50.")
    if options.model is not None:
        parsed = parse_reference(options.model, MODELS)
        if parsed.scheme is None and parsed.name != "features":
            raise ModelError(
                f"'{options.model}' does not say where the model comes from. Write, for example, "
                f"{', '.join(MODELS.values())}."
            )
        file, _, factory = parsed.name.rpartition(":")
        if parsed.scheme == "python" and (not file or not factory.isidentifier()):
            raise ModelError(f"'{options.model}' must name a file or module and a factory: {MODELS['python']}.")
        if parsed.scheme == "python" and file.endswith(".py") and not Path(file).is_file():
            raise ModelError(f"there is no Python file {file}. Check --model.")
        if parsed.scheme == "features" and not Path(parsed.name).is_file():
            raise ModelError(f"there is no head file {parsed.name}. Check --model.")
    if options.weights is not None and not options.weights.is_file():
        raise ModelError(f"there is no weight file {options.weights}. Check --weights.")
    if options.preprocessing is not None:
        preprocessing_text(options.preprocessing)
    if options.rows is not None and (name := parse_reference(options.rows).name) not in ROWS:
        raise unknown_name("kind of rows", name, ROWS)


def preprocessing_text(text: str) -> str:
    """The JSON object that `--preprocessing` gives, as itself or as a file.

    Raises
    ------
    SettingError
        It is neither.
    """
    from oodline._util.json_text import parse_json

    name = text if len(text) < 80 else f"{text[:76]} ..."
    try:
        content = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        document = parse_json(content)
    except OSError as error:
        raise SettingError(
            f"--preprocessing must be JSON or a JSON file; {name!r} is neither: {error.strerror}."
        ) from error
    except ValueError as error:
        raise SettingError(f"--preprocessing must be JSON or a JSON file; {name!r} is neither: {error}.") from error
    if not isinstance(document, dict):
        raise SettingError(f"--preprocessing must be a JSON object; got {type(document).__name__}.")
    return content


def check_reading(options: DataOptions) -> None:
    """Raise `SettingError` for numbers of `DataOptions` that count nothing."""
    check_least("--batch-size", options.batch_size, 1)
    check_least("--workers", options.workers, 0)
    check_least("--limit", options.limit, 1)


def check_least(option: str, value: int | None, least: int, most: int | None = None) -> None:
    """Raise `SettingError` where a number that is given lies outside its range.

    Examples
    --------
    >>> check_least("--limit", 0, 1)
    Traceback (most recent call last):
    oodline.errors.SettingError: `--limit` must be at least 1; got 0.
    """
    if value is None:
        return
    if value < least:
        raise SettingError(f"`{option}` must be at least {least}; got {value}.")
    if most is not None and value > most:
        raise SettingError(f"`{option}` must be at most {most}; got {value}.")


def check_fraction(option: str, value: float | None) -> None:
    """Raise `SettingError` where a number that is given does not lie between 0 and 1, both excluded."""
    if value is not None and not (math.isfinite(value) and 0 < value < 1):
        raise SettingError(f"`{option}` must be between 0 and 1, both excluded; got {value:g}.")


def check_rates(false_alarm: float | None, tpr: float | None) -> None:
    """Raise `SettingError` if both rates are given, or one is outside (0, 1)."""
    if false_alarm is not None and tpr is not None:
        raise SettingError(
            f"--false-alarm {false_alarm:g} and --tpr {tpr:g} say the same thing twice. Give one of them."
        )
    check_fraction("--false-alarm", false_alarm)
    check_fraction("--tpr", tpr)


def load_detectors(homes: Iterable[str] | None) -> None:
    """Register the own detectors of the files or modules that `--detectors-from` names.

    Raises
    ------
    DetectorError
        One is not there, cannot be imported, or defines no detector.
    """
    for home in homes or ():
        if home.endswith(".py") and not Path(home).is_file():
            raise DetectorError(f"there is no Python file {home}. Check --detectors-from.")
    for home in homes or ():
        from oodline.detectors.registry import register_from

        register_from(home)


def check_detectors(references: Iterable[str], *, labelled: bool = False) -> None:
    """Raise for a detector that is unknown or named twice; `labelled` ones may have LABEL= before them.

    Raises
    ------
    UnknownNameError, SettingError
        As the message says.
    """
    seen = set()
    for reference in references:
        label, equals, rest = reference.partition("=")
        own = labelled and equals and "," not in label
        name = parse_reference(rest if own else reference).name
        if name == "all":
            continue
        if not is_known(name):
            raise unknown_detector(name)
        known = label if own else name
        if known in seen:
            two = f"two detectors are called '{known}'. Tell them apart, such as second={reference}"
            raise SettingError(two if labelled else f"'{name}' is named twice; one file holds each method once.")
        seen.add(known)


def check_suffix(option: str, path: Path, known: Iterable[str]) -> None:
    """Raise `SettingError` where a file to write does not have one of the known endings."""
    if path.suffix not in known:
        raise SettingError(f"`{option}` must end in {', '.join(known)}; got {path.name}.")


def check_engine(reference: str | None) -> None:
    """Raise for an engine that is unknown.

    Raises
    ------
    UnknownNameError
        The message says the nearest.
    """
    from oodline.cli.engine import NAMES

    if reference is not None and (name := parse_reference(reference).name) not in NAMES:
        raise unknown_name("engine", name, NAMES)
