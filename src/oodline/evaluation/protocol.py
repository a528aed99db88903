"""A benchmark as a TOML file: classifier, data sets with their roles and groups, detectors.

    name = "CIFAR-10 of the LINe paper"
    folder = "../data"            # where the paths of data and weights begin, seen from this file
    batch_size = 100
    detectors = ["line,preset=cifar10-densenet100", "react-dice=react,scorer=dice", "all"]

    [classifier]
    model = "timm:resnet50"
    weights = "resnet50.safetensors"

    [fit]                         # ID training data; [calibration] is optional
    data = "cifar10/train.parquet"
    source = "https://www.cs.toronto.edu/~kriz/cifar.html"

    [test]
    data = "cifar10/test.parquet"

    [[csid]]                      # ID data under a covariate shift: counts as ID in the full-spectrum table
    data = "cifar10c.parquet"

    [[ood]]
    group = "far"
    data = "svhn.parquet"

A file may not say which code to run: a `python:` model is named by the user who runs the benchmark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, ValidationError

from oodline._util.spec import Reference, parse_reference
from oodline._util.toml import read_toml
from oodline._util.validation import path_of, problem
from oodline.data.opening import SCHEMES, is_tensors
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector, detector_names
from oodline.errors import ModelError, SettingError, unknown_name
from oodline.evaluation.record import SETS, SETS_IN_WORDS, Role, SetName, safe_name
from oodline.preprocessing.preprocessing import Preprocessing

Text = Annotated[str, StringConstraints(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifierSection(_Section):
    """Which classifier: as `--model`, `--weights`, `--head` and `--preprocessing` say it."""

    model: Text
    weights: Text | None = None
    head: Text | None = None
    feature_map: Text | None = None
    rows: Text | None = None
    """What it has one decision of, such as "pixels,region=0.01"; one per image if omitted."""
    preprocessing: Preprocessing | None = None
    source: str | None = None
    """Where users get the weights."""


class DataSection(_Section):
    """One data set."""

    data: Text
    """A path of images or tensors, or `torchvision:`, `hf:` or `list:` with a name, as `--data` takes it. Paths begin
    in `folder`; of `hf:`, a folder that is there, and else the name is that of the hub."""
    name: SetName | None = None
    """If omitted, the last part of the path."""
    source: str | None = None
    """Where users get it."""
    limit: PositiveInt | None = None
    """Read at most this many images, the first ones."""
    label_offset: int = 0
    """Added to every label."""
    preprocessing: Preprocessing | None = None
    """In place of the classifier's, for a set that comes prepared in another way."""


AnySection = TypeVar("AnySection", bound=DataSection)


class OODSection(DataSection):
    """An OOD data set."""

    group: Text | None = None
    """Such as near or far: the sets of a group are averaged."""


class BenchmarkProtocol(_Section):
    """A benchmark, as a file describes it.

    Examples
    --------
    >>> protocol = BenchmarkProtocol.model_validate({
    ...     "classifier": {"model": "timm:resnet50"},
    ...     "fit": {"data": "train"}, "test": {"data": "val"},
    ...     "ood": [{"data": "ood/svhn.parquet", "group": "far"}],
    ... })
    >>> [(role, name) for role, name, _ in protocol.sets()]
    [('fit', 'train'), ('id', 'val'), ('ood', 'svhn')]
    """

    name: str = "benchmark"
    source: str | None = None
    """The publication whose protocol it is."""
    folder: str = "."
    classifier: ClassifierSection
    fit: DataSection
    calibration: DataSection | None = None
    test: DataSection
    csid: tuple[DataSection, ...] = ()
    ood: tuple[OODSection, ...] = ()
    detectors: tuple[Text, ...] = ("all",)
    """Each as `--detector` takes it, with LABEL= before it where the tables should call it otherwise."""
    tpr: Annotated[float, Field(gt=0, lt=1)] = 0.95
    batch_size: PositiveInt = 64
    limit: PositiveInt | None = None
    """Read at most this many images of each set, the first ones."""
    seed: int = 0
    on_error: Literal["raise", "skip"] = "raise"

    def sets(self) -> list[tuple[Role, str, DataSection]]:
        """Role, name and description of every data set, in the order of the passes.

        Raises
        ------
        SettingError
            Two have the same name, or a name cannot be that of a file.
        """
        listed: list[tuple[Role, DataSection]] = [("fit", self.fit)]
        listed += [("calibration", self.calibration)] if self.calibration is not None else []
        listed += [("id", self.test), *(("csid", s) for s in self.csid), *(("ood", s) for s in self.ood)]
        found: list[tuple[Role, str, DataSection]] = []
        for role, part in listed:
            name = part.name or safe_name(part.data)
            if name in (known for _, known, _ in found):
                raise SettingError(f"two data sets are called '{name}'. Give one of them another `name`.")
            found.append((role, name, part))
        return found


def read_protocol(path: str | Path, *, folder: str | Path | None = None, model: str | None = None) -> BenchmarkProtocol:
    """Read a TOML file, with every path in it made one that can be opened from here.

    Parameters
    ----------
    path : str or Path
        The file.
    folder : str or Path, optional
        Where paths of data and weights begin, in place of the file's own `folder`.
    model : str, optional
        The classifier to run in place of the one that the file names; needed where that is `python:` code.

    Raises
    ------
    DataError
        There is no such file.
    SettingError
        It is not TOML, something is missing or has a wrong value.
    UnknownNameError
        It has a key that means nothing; the message says the nearest.
    ModelError
        It names `python:` code, which a file may not have run.
    """
    return place_protocol(read_toml(path), Path(path), folder=folder, model=model)


def place_protocol(
    document: dict[str, Any], path: Path, *, folder: str | Path | None = None, model: str | None = None
) -> BenchmarkProtocol:
    """As `read_protocol`, of what the file at `path` holds, or is to hold."""
    protocol = parse_protocol(document, str(path))
    if model is None and protocol.classifier.model.startswith("python:"):
        raise ModelError(
            f"{path} names {protocol.classifier.model}, and a file may not say which code to run. If you trust it, "
            f"name it yourself: --model {protocol.classifier.model}"
        )
    base = (Path(folder) if folder is not None else path.parent / protocol.folder).resolve()
    sets: dict[str, Any] = {
        key: None if getattr(protocol, key) is None else _placed(getattr(protocol, key), base, path)
        for key in ("fit", "calibration", "test")
    }
    sets |= {key: tuple(_placed(s, base, path) for s in getattr(protocol, key)) for key in ("csid", "ood")}
    weights = protocol.classifier.weights
    named = model or _placed_model(protocol.classifier.model, base)
    changes = {"model": named, "weights": weights and str(base / weights)}
    classifier = protocol.classifier.model_copy(update=changes)
    return protocol.model_copy(update={**sets, "classifier": classifier, "folder": str(base)})


def parse_protocol(document: dict[str, Any], where: str = "the benchmark") -> BenchmarkProtocol:
    """Check a document that was read from TOML or built in another way; `where` is what messages call it.

    Raises
    ------
    SettingError, UnknownNameError
        As `read_protocol`.
    """
    try:
        return BenchmarkProtocol.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        *section, key = first["loc"] or ("",)
        place = f"[{path_of(tuple(section))}]" if section else "the top level"
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"key in {place} of {where}:", str(key), _keys(section)) from error
        if first["type"] == "missing":
            what = f"[{key}]" if not section and key in ("classifier", "fit", "test") else f"`{key}` in {place}"
            raise SettingError(f"{where} lacks {what}.") from error
        raise SettingError(f"{where}: {problem(error, {SETS: SETS_IN_WORDS})}.") from error


def labelled_detectors(entries: tuple[str, ...] | list[str]) -> dict[str, Detector]:
    """Build detectors from `[LABEL=]NAME,setting=value,...`, known by label, or else by name.

    `all` stands for those of the catalog that are not there yet, with default settings.

    Raises
    ------
    SettingError
        Two have the same label, or a setting is wrong.
    UnknownNameError
        There is no such detector.

    Examples
    --------
    >>> list(labelled_detectors(["line,preset=cifar10-densenet100", "react-dice=react,scorer=dice", "react"]))
    ['line', 'react-dice', 'react']
    """
    found: dict[str, Detector] = {}
    for entry in entries:
        if entry == "all":
            continue
        label, equals, reference = entry.partition("=")
        if not equals or "," in label:
            label, reference = parse_reference(entry).name, entry
        if label in found:
            raise SettingError(f"two detectors are called '{label}'. Tell them apart, such as second={reference}")
        if "/" in label:
            raise SettingError(f"'{label}' cannot be a column: give the detector a label without a slash.")
        found[label] = create_detector(reference)
    if "all" in entries:
        found |= {name: create_detector(name) for name in detector_names() if name not in found}
    return found


def _placed(part: AnySection, base: Path, file: Path) -> AnySection:
    reference = parse_reference(part.data, SCHEMES)
    if "trust_remote_code" in reference.options:
        raise SettingError(f"{file}: {part.data} would run code, and a file may not say which. Leave that option out.")
    if reference.scheme is None and is_tensors(reference.name):
        beside: dict[str, object] = {key: str(base / str(value)) for key, value in reference.options.items()}
        data = str(Reference(None, str(base / reference.name), beside))
    elif reference.scheme is None and "masks" in reference.options:
        masks = {"masks": str(base / str(reference.options["masks"]))}
        data = str(Reference(None, str(base / reference.name), {**reference.options, **masks}))
    elif reference.scheme is None:
        data = str(base / part.data)
    else:
        options = dict(reference.options)
        if "root" in options:
            options["root"] = str(base / str(options["root"]))
        name = str(base / reference.name) if reference.scheme == "list" else reference.name
        if reference.scheme == "hf":
            name = _beside(reference.name, base)
            local = {key: options[key] for key in ("data_dir", "data_files") if isinstance(options.get(key), str)}
            options |= {key: _beside(str(value), base) for key, value in local.items()}
        data = str(Reference(reference.scheme, name, options))
    return part.model_copy(update={"data": data, "name": part.name or safe_name(part.data)})


def _placed_model(model: str, base: Path) -> str:
    parsed = parse_reference(model, ("features", "hf"))
    if parsed.scheme is None:
        return model
    name = _beside(parsed.name, base) if parsed.scheme == "hf" else str(base / parsed.name)
    return str(Reference(parsed.scheme, name, parsed.options))


def _beside(name: str, base: Path) -> str:
    """The folder of this name, where there is one; else the name, which is that of the hub."""
    return str(base / name) if (base / name).exists() else name


def _keys(section: list[int | str]) -> list[str]:
    model: type[BaseModel] = BenchmarkProtocol
    for part in section:
        if isinstance(part, str):
            model = next(m for m in _models(model.model_fields[part].annotation))
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
