"""Options that several commands share (classifier, data, engine, JSON), and helpers to load and print."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from oodline._util.set_names import SAYS_LITTLE, split_name
from oodline._util.warning import warn
from oodline.cli.preprocessing import read_preprocessing
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import ModelError, SettingError

if TYPE_CHECKING:
    from rich.console import Console

    from oodline.data import AnyLoader
    from oodline.guard.artifact import Artifact
    from oodline.model.classifier import Classifier
    from oodline.preprocessing.kinds import AnyPreprocessing


_AS_USUAL = RunOptions()

WIDE = 400
"""Columns of a table at most where no terminal limits them."""


@Parameter(name="*", group=Group("The classifier", sort_key=2))
@dataclass(frozen=True)
class ModelOptions:
    """The classifier."""

    model: str | None = None
    """The classifier: timm:NAME, torchvision:NAME, hf:NAME or python:FILE_OR_MODULE:FACTORY, with options appended as
    ,key=value. If the data files hold precomputed features (.npz, .npy, .pt, .safetensors): features:HEAD_FILE, or
    features alone for detectors that need no head. If omitted, the model that the guard file names."""
    weights: Path | None = None
    """File of weights to load into the model: .safetensors, or a PyTorch state_dict (read with weights_only=True). If
    omitted, those of the guard file, or the model's own."""
    head: str | None = None
    """Module that computes the logits: `fc`, or a weighted sum, `0.5*head + 0.5*head_dist`. If omitted, it is searched
    for."""
    binary: Annotated[bool, Parameter(negative="")] = False
    """The model is a binary classifier that returns one logit z, for the second class: use (0, z) as the logits."""
    task: Literal["multiclass", "multilabel"] | None = None
    """What the logits are of: classes that exclude each other (multiclass), or labels of which an image has any number
    (multilabel). If omitted, that of the guard file, or multiclass."""
    rows: str | None = None
    """The model gives several decisions per image or text: pixels, boxes or tokens, with settings if wanted. With
    pixels,region=0.01 an image is flagged where at least this share of its pixels is; with boxes,least=0.5 boxes that
    the model is less sure of do not count; with tokens,judged=lowest a text is judged by its oddest token. If omitted,
    as the guard file says, or one decision per input."""
    preprocessing: str | None = None
    """Preprocessing as JSON, or the path of a JSON file: {"resize": 32, "crop": 32, "mean": [...], "std": [...]}. If
    omitted, that of the guard file, or the model's own."""
    allow_other_weights: str | None = None
    """A reason, as text, to use a guard file with weights other than those it was fitted with; a warning repeats it. If
    omitted, other weights are an error."""


@Parameter(name="*", group=Group("Reading data", sort_key=3))
@dataclass(frozen=True)
class DataOptions:
    """How to read data sets."""

    batch_size: int = 64
    """Images, or texts, per batch."""
    workers: int = 0
    """Worker processes that load images; 0 loads them in the main process."""
    limit: int | None = None
    """Read at most this many images of each data set, evenly over classes, or the first ones if there are no labels. If
    omitted, all."""
    label_offset: int = 0
    """Integer added to every label: 1 if class 0 of the head is a background class that the data does not have."""
    on_error: Literal["raise", "skip"] = "raise"
    """For an image that cannot be read, or a row without text: stop with an error (raise), or leave it out and report
    how many (skip)."""
    text_column: str | None = None
    """For a model of texts: the column of texts, or two, --text-column premise,hypothesis. If omitted, it is found by
    its name: text, sentence, query, ..."""
    label_column: str | None = None
    """For a model of texts: the column of labels, class names or numbers. If omitted, it is found by its name: label,
    intent, class, ..."""


EngineName = Annotated[str | None, Parameter(name="--engine")]
"""How to run the forward pass: local, torchrun (the default if torchrun started this process), or ray,workers=N."""

DetectorsFrom = Annotated[
    list[str] | None,
    Parameter(
        name="--detectors-from",
        negative="",
        help="A Python file or module that defines your own detectors, so that this run knows their names; repeat for "
        "several. Its code is run, so name only code that you trust.",
    ),
]
"""Files or modules that define the user's own detectors."""

Json = Annotated[bool, Parameter(name="--json", negative="")]
"""Print one JSON document on standard output and nothing else."""


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier with what its source knew about it."""

    classifier: Classifier
    preprocessing: AnyPreprocessing
    class_names: tuple[str, ...] | None
    reference: str
    weights: str | None

    @property
    def of_features(self) -> bool:
        """Whether features computed before stand in for the model."""
        from oodline.model.features import FeatureClassifier

        return isinstance(self.classifier, FeatureClassifier)


def load_classifier(
    options: ModelOptions,
    artifact: Artifact | None = None,
    data: str | None = None,
    *,
    running: RunOptions = _AS_USUAL,
) -> LoadedClassifier:
    """Build the classifier that the options name, or the one that a file was fitted on.

    `data` names the first data set, whose features may stand in for a model.

    Raises
    ------
    ModelError
        No model is named; or only the file names it, as `python:` code, which a file may not have run.
    """
    from oodline.model.classifier import Classifier
    from oodline.model.from_features import is_features
    from oodline.preprocessing.preprocessing import Preprocessing

    source = artifact.model if artifact is not None else None
    reference, weights, head = options.model, options.weights, options.head
    if reference is None:
        if source is None:
            raise ModelError("no classifier is named. Pass --model, such as --model timm:resnet50.")
        if source.reference.startswith("python:"):
            raise ModelError(
                f"the guard file was fitted on {source.reference}, and a file may not say which code to run. If you "
                f"trust it, pass --model {source.reference}"
            )
        reference = source.reference
    if is_features(reference):
        return _load_features(reference, options, artifact, data, running)
    if source is not None and reference == source.reference:
        weights = weights or (Path(source.weights) if source.weights else None)
        head = head or source.head
    rows = options.rows or (None if artifact is None else artifact.rows)
    _check_promise(rows)
    known = artifact.preprocessing if artifact is not None else None
    if options.preprocessing is not None:
        known = read_preprocessing(options.preprocessing, known)
    classifier = Classifier.load(
        reference,
        weights,
        head=head,
        binary=options.binary,
        task=options.task,
        device=running.device,
        dtype=running.dtype,
        compile=running.compile,
        preprocessing=known,
        rows=rows,
    )
    if classifier.preprocessing is None:
        warn(
            f"{reference} states no preprocessing, so images are only scaled to [0, 1], not resized or normalised. "
            "Pass --preprocessing.",
        )
    if artifact is not None:
        artifact.check(classifier, allow_other_weights=options.allow_other_weights)
        for detector in artifact.detectors.values():
            detector.to(classifier.device)
    return LoadedClassifier(
        classifier,
        classifier.preprocessing or Preprocessing(),
        classifier.class_names,
        reference,
        None if weights is None else str(weights),
    )


def _check_promise(rows: str | None) -> None:
    from oodline.model.rows.boxes import Boxes
    from oodline.model.rows.named import rows_of

    kind = None if rows is None else rows_of(rows)
    if isinstance(kind, Boxes) and kind.promise != "image":
        raise SettingError(
            f"`promise` must be 'image' on the command line, which says one thing of an image; got '{kind.promise}'. "
            "Guards of single boxes are for Python: BoxClassifier."
        )


def _load_features(
    reference: str, options: ModelOptions, artifact: Artifact | None, data: str | None, running: RunOptions
) -> LoadedClassifier:
    from oodline.model.from_features import open_feature_classifier
    from oodline.model.zoo import move
    from oodline.preprocessing.preprocessing import Preprocessing

    if data is None:
        raise ModelError(
            f"{reference} means precomputed features, but images were given, which need the model. Pass --model."
        )
    if options.preprocessing is not None:
        raise SettingError("--preprocessing is for images, and features are read as they are. Leave it out.")
    running.refuse_half("for features, which are read as they are")
    classifier, reference = open_feature_classifier(
        reference,
        data,
        weights=options.weights,
        head_name=options.head,
        num_classes=None if artifact is None else artifact.head.num_classes,
        task=options.task or ("multiclass" if artifact is None else artifact.head.task),
    )
    device = running.device or "cpu"  # a head alone is quick everywhere
    move(classifier.model, device)
    if artifact is not None:
        artifact.check(classifier, allow_other_weights=options.allow_other_weights)
        for detector in artifact.detectors.values():
            detector.to(classifier.device)
    return LoadedClassifier(classifier, Preprocessing(), None, reference, None)


def open_loader(
    spec: str,
    loaded: LoadedClassifier,
    options: DataOptions,
    *,
    pixels: bool = False,
    class_names: Sequence[str] | None = None,
    labelled: bool = True,
) -> AnyLoader:
    """Open a data set by its path or name, for a classifier; images before their normalisation, if asked to.

    Where its labels matter, they are matched by name to `class_names`, the classifier's. Where they do not, `labelled`
    is false, and it need not have the column of labels that the options name.
    """
    from oodline import data
    from oodline.model.features import FeatureClassifier
    from oodline.model.rows.tokens import Tokens
    from oodline.preprocessing.preprocessing import Preprocessing

    if not loaded.classifier.reads_labels or isinstance(loaded.classifier.rows, Tokens):  # a text has one, if any
        class_names, labelled = None, False
    if isinstance(loaded.classifier, FeatureClassifier):
        return loaded.classifier.loader(
            spec, batch_size=options.batch_size, limit=options.limit, label_offset=options.label_offset
        )
    prepared = loaded.preprocessing
    return data.open_loader(
        spec,
        prepared.pixels if pixels and isinstance(prepared, Preprocessing) else prepared,
        batch_size=options.batch_size,
        workers=options.workers,
        limit=options.limit,
        on_error=options.on_error,
        label_offset=options.label_offset,
        class_names=class_names,
        text_column=options.text_column,
        label_column=options.label_column,
        labelled=labelled,
    )


def with_masks(spec: str, masks: str | None) -> str:
    """A data set with the folder of its masks, if one is given.

    Examples
    --------
    >>> with_masks("images", "labels")
    'images,masks=labels'
    """
    return spec if masks is None else f"{spec},masks={masks}"


def named(specs: list[str]) -> dict[str, str]:
    """Split NAME=SPEC; without a name, the last part of the path is the name.

    Where that says little, such as "test", or two sets share it, the folder stands before it.

    Raises
    ------
    SettingError
        Two sets have the same name.

    Examples
    --------
    >>> named(["ood/svhn.parquet", "far=textures/"])
    {'svhn': 'ood/svhn.parquet', 'far': 'textures/'}
    >>> list(named(["cifar100/test.parquet", "a/noise", "b/noise"]))
    ['cifar100-test', 'a-noise', 'b-noise']
    """
    found: dict[str, str] = {}
    split = [split_name(spec) for spec in specs]
    stems = Counter(name or _last_parts(path, 1) for name, path in split)
    for given, path in split:
        stem = _last_parts(path, 1)
        name = given or _last_parts(path, 2 if stems[stem] > 1 or stem in SAYS_LITTLE else 1)
        if name in found:
            raise SettingError(f"two data sets are called '{name}'. Name them: --ood NAME={path}")
        found[name] = path
    return found


def _last_parts(path: str, count: int) -> str:
    plain = Path(path.split(",")[0].rstrip("/"))
    return "-".join([*[part for part in plain.parent.parts[1 - count :] if count > 1 and part != "/"], plain.stem])


def report_skipped(loaders: Mapping[str, AnyLoader], running: RunOptions) -> dict[str, int]:
    """Say on standard error which images or texts could not be read; return how many by data set."""
    counts = {}
    for name, loader in loaders.items():
        if loader.skipped:
            counts[name] = len(loader.skipped)
            shown = ", ".join(loader.skipped[:5]) + (", ..." if len(loader.skipped) > 5 else "")
            running.warn(f"{len(loader.skipped)} unreadable {loader.unit} of {name} were skipped: {shown}")
    return counts


def table_console() -> Console:
    """A console for tables: where no terminal limits the width, as in a file or a pipe, names are not broken."""
    from rich.console import Console

    limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if limited else WIDE)


def print_json(document: Any) -> None:
    """Print a JSON document on standard output."""
    say(json.dumps(document, indent=2, allow_nan=False))


__all__ = [
    "DataOptions",
    "DetectorsFrom",
    "EngineName",
    "Json",
    "LoadedClassifier",
    "ModelOptions",
    "load_classifier",
    "named",
    "open_loader",
    "print_json",
    "report_skipped",
    "table_console",
    "with_masks",
]
