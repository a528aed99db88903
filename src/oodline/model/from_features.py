"""Build a classifier and a loader from arrays or files of features and logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oodline._util.checked import checked
from oodline._util.ranges import Count
from oodline._util.spec import parse_reference
from oodline.data.tensors import TensorLoader, TensorSource
from oodline.errors import DataError, HeadError, ModelError
from oodline.model.feature_files import open_features
from oodline.model.features import FeatureClassifier
from oodline.model.head_file import make_head
from oodline.model.head_name import Task
from oodline.model.no_head import NoHead

SCHEME = "features"
"""How a reference names a classifier of precomputed features: `features`, or `features:HEAD_FILE`."""


@checked
def from_features(
    features: Any = None,
    labels: Any = None,
    *,
    logits: Any = None,
    head: Any = None,
    head_name: str | None = None,
    num_classes: Count | None = None,
    task: Task = "multiclass",
    batch_size: Count = 1024,
) -> tuple[FeatureClassifier, TensorLoader]:
    """A classifier and a loader of precomputed features or logits, for all that takes a classifier and a loader.

    Parameters
    ----------
    features : array (N, D), Tensor, str or Path, optional
        Penultimate features, floating-point, of ID training data; or a file (.npz, .npy, .pt, .pth, .safetensors) with
        `features`, and perhaps `logits` and `labels`.
    labels : array (N,), str or Path, optional
        Integer classes, from 0, in the order of the logits; only methods that read labels need them. Of a multi-label
        classifier (N, C), 0 or 1; no method needs them.
    logits : array (N, C), str or Path, optional
        The model's own logits. With a head they need not be given; where they are, they must be what it gives.
    head : (W, b), nn.Linear, state_dict, str or Path, optional
        The last layer: W (C, D) and b (C,), or a file with its weight and bias. Methods that need no head do without.
    head_name : str, optional
        Name of the layer in a state_dict or a file that holds several, such as fc.
    num_classes : int, optional
        Number of classes where neither head nor logits tell it, and not all have a label.
    task : {"multiclass", "multilabel"}
        As `Classifier`.
    batch_size : int
        Samples per batch.

    Returns
    -------
    (FeatureClassifier, TensorLoader)
        `classifier.loader(features, labels, logits=...)` makes loaders of further data.

    Raises
    ------
    DataError, HeadError
        An array has another shape, length or kind than it should; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import oodline as ol
    >>> random = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> features = random.normal(size=(60, 8)) + 5 * np.eye(3, 8)[labels]
    >>> classifier, train = ol.from_features(features, labels)
    >>> detector = ol.KNN(k=5).fit(classifier, train)
    >>> scores = ol.score(detector, classifier, classifier.loader(random.normal(size=(4, 8))))["knn"]
    >>> scores.shape
    torch.Size([4])
    >>> classifier, train = ol.from_features(features, labels, head=(np.eye(3, 8), np.zeros(3)))
    >>> guard = ol.Guard(classifier, ol.Energy()).calibrate(train)
    >>> guard(features[:2]).label
    tensor([0, 1])
    """
    source = open_features(features, labels, logits=logits)
    classifier = feature_classifier(source, head, head_name=head_name, num_classes=num_classes, task=task)
    classifier.check(source)
    return classifier, TensorLoader(source, batch_size)


def feature_classifier(
    source: TensorSource,
    head: Any = None,
    *,
    head_name: str | None = None,
    num_classes: int | None = None,
    task: Task = "multiclass",
) -> FeatureClassifier:
    """The classifier of a source of features or logits; see `from_features`.

    Raises
    ------
    HeadError, DataError
        As `from_features`.
    """
    width = {name: source.shape(name)[1] for name in source.inputs}
    if num_classes is not None and num_classes < 1:
        raise DataError(f"`num_classes` must be at least 1; got {num_classes}.")
    if head is not None:
        if "features" not in width:
            raise DataError(f"a head is for features, and {source.where} holds no `features`. Leave out the head.")
        made = make_head(head, width["features"], width.get("logits"), head_name)
        classifier = FeatureClassifier(made, task=task)
        if classifier.head.num_features != width["features"]:
            raise HeadError(
                f"the head reads {classifier.head.num_features} features, and {source.where} has {width['features']}."
            )
        return classifier
    labels = source.labels()
    counted = 1 if labels is None else labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    classes = width.get("logits") or num_classes or max(counted, len(source.class_names or ()), 1)
    has_features = "features" in width
    return FeatureClassifier(
        NoHead(
            classes,
            width["features"] if has_features else classes,
            logits="logits" in width,
            features=has_features,
            name="multilabel()" if task == "multilabel" else "",
        )
    )


def is_features(reference: str) -> bool:
    """Whether a model reference names precomputed features in place of a model.

    Examples
    --------
    >>> is_features("features"), is_features("features:head.npz,head=fc"), is_features("timm:features")
    (True, True, False)
    """
    parsed = parse_reference(reference, (SCHEME,))
    return parsed.scheme == SCHEME or parsed.name == SCHEME


def open_feature_classifier(
    reference: str,
    data: Any,
    *,
    weights: str | Path | None = None,
    head_name: str | None = None,
    num_classes: int | None = None,
    task: Task = "multiclass",
) -> tuple[FeatureClassifier, str]:
    """The classifier that `features[:HEAD_FILE][,head=NAME]` names, for a data set; and the reference that names it.

    Raises
    ------
    ModelError
        The reference sets something else, or the head's file is named twice.
    DataError, HeadError
        As `from_features`.
    """
    parsed = parse_reference(reference, (SCHEME,))
    if unknown := parsed.options.keys() - {"head"}:
        raise ModelError(f"{reference} has an unknown option, {min(unknown)}; the only option is head=NAME.")
    file = parsed.name if parsed.scheme else None
    if file and weights is not None:
        raise ModelError(f"the file of the head is named twice, {file} and {weights}. Leave out --weights.")
    file = file or (None if weights is None else str(weights))
    name = head_name or (str(parsed.options["head"]) if "head" in parsed.options else None)
    if name is not None and file is None:
        raise ModelError(f"the head '{name}' is named, but no file that holds it: {SCHEME}:HEAD_FILE,head={name}.")
    found = feature_classifier(open_features(data), file, head_name=name, num_classes=num_classes, task=task)
    named = SCHEME if file is None else f"{SCHEME}:{file}"
    return found, named if name is None else f"{named},head={name}"
