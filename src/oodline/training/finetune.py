"""`finetune`: what a training recipe would gain on a classifier, beside plain cross-entropy for as long."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from oodline._util.checked import checked
from oodline._util.folders import check_replaceable, write_folder
from oodline._util.ranges import Positive, Range, Seed, Share
from oodline._util.temporary import remove
from oodline._util.warning import warn
from oodline._version import __version__
from oodline.data.batch import KnownLoader, Loader
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.default import default_detector
from oodline.detectors.fit import fit
from oodline.detectors.named import Detectors, name_detectors
from oodline.errors import SettingError, unknown_name
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.evaluate import evaluate
from oodline.evaluation.scored_sets import check_names
from oodline.evaluation.table import Table
from oodline.model.classifier import Classifier
from oodline.model.precision import Dtype
from oodline.training.auxiliary import Auxiliary
from oodline.training.checkpoint import save_checkpoint
from oodline.training.comparison import Comparison
from oodline.training.data_identity import DataIdentity
from oodline.training.data_record import data_record
from oodline.training.epochs import Training, accuracy
from oodline.training.fine_tuned import PLAIN, FineTuned, notes
from oodline.training.head import replace_head
from oodline.training.recipe import RECIPES, Recipe, recipe_of
from oodline.training.shuffled import Shuffled
from oodline.training.trainable import check_trainable, network_of

CHEAP = ("msp", "max-logit", "energy", "gen", "feature-norm", "fdbd", "react", "line", "vim", "knn", "mahalanobis")
"""Detectors that read features and logits alone and are fitted in seconds; the default is put before them."""

Epochs = Annotated[int, Range(1, 10**6)]

BEFORE, MARKER = "before", "finetuned.json"

DIGESTED = {"train": "training data", "held_out": "held-out data", "auxiliary": "auxiliary data"}
"""Arguments whose data a training depends on, and what messages call them."""


@checked
def finetune(
    classifier: Classifier,
    train: Loader,
    recipe: Recipe | str,
    *,
    epochs: Epochs,
    auxiliary: Loader | None = None,
    held_out: Loader | None = None,
    accuracy_lost: Share = 0.02,
    test: Loader | None = None,
    ood: Mapping[str, Loader] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    detectors: Detectors | None = None,
    fit_data: Loader | None = None,
    bootstrap: Bootstrap | int | None = None,
    learning_rate: Positive | None = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    names: Mapping[str, str] | None = None,
    output: str | Path | None = None,
    progress: bool = False,
) -> FineTuned:
    """Fine-tune a copy of a classifier by a recipe, another by plain cross-entropy for as long, and compare all three.

    The classifier itself is not changed. With `output`, the end of each epoch is written beside it, and a call that is
    repeated after it was killed goes on from there and gives what it would have given.

    Parameters
    ----------
    classifier : Classifier
        Trained.
    train : iterable
        Labelled ID data, read once each epoch: a `DataLoader` with `shuffle=True`, or a loader of
        `oodline.data.open_loader`, which is shuffled here.
    recipe : Recipe or str
        A name of `oodline.training.RECIPES`, with settings of its loss if wanted: "logit-norm,temperature=0.1".
    epochs : int
        Of each training.
    auxiliary : iterable, optional
        Outliers for the recipes that need them, none of them in `ood`. Labels are not read.
    held_out : iterable, optional
        Labelled ID data that is neither trained nor tested on, on which the accuracy is watched.
    accuracy_lost : float
        A training ends where it has lost more than this share of accuracy on `held_out`, and the weights before that
        epoch are kept.
    test : iterable, optional
        ID test data, where there is `ood`.
    ood : mapping of str to iterable, optional
        OOD test data by name; without it, nothing is compared.
    groups : mapping of str to sequence of str, optional
        Names of OOD sets by group, such as near and far.
    detectors : Detector, name, or several, optional
        Fitted anew for each classifier. If omitted, the default and `CHEAP`, which read features and logits alone.
    fit_data : iterable, optional
        Labelled ID data that detectors are fitted on; `train` if omitted.
    bootstrap : int or Bootstrap, optional
        Resamples for intervals, as `oodline.evaluate`.
    learning_rate : float, optional
        At the start; the recipe's if omitted.
    seed : int
        Of all that is random.
    dtype : {"float32", "bfloat16", "float16"}
        What the forward passes of the training compute in.
    names : mapping of str to str, optional
        What the record calls the classifier and the data, by argument: {"train": "imagenet/train"}; an OOD set by
        "ood/NAME".
    output : str or Path, optional
        Folder for both checkpoints, the table and the record.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    FineTuned
        Both classifiers, the histories and the comparison.

    Warns
    -----
    AssumptionWarning
        As `oodline.fit`, with the network that it is about.

    Raises
    ------
    UnknownNameError
        There is no such recipe, or `names` is of something else than classifier and data.
    SettingError
        The recipe needs auxiliary outliers and there are none, there is OOD data and no `test`, or the classifier is
        multi-label, binary with one logit, or has several rows per input.
    LabelError
        Training or held-out labels that are not one class per sample, or a class without a sample.
    DataError
        The output cannot be written, the loss is no longer a number, or what was begun there was begun on other data,
        other weights or with other settings.

    Examples
    --------
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, train = toy_problem()
    >>> test, ood = toy_loader(seed=1), {"far": [torch.full((20, 4), -9.0)]}
    >>> found = finetune(classifier, train, "logit-norm", epochs=3, test=test, ood=ood, detectors=["msp", "energy"])
    >>> list(found.comparison.tables), found.comparison.detectors
    (['before', 'cross-entropy', 'logit-norm'], ['msp', 'energy'])
    """
    chosen = recipe_of(recipe)
    if learning_rate is not None:
        chosen = replace(chosen, learning_rate=learning_rate)
    loaders = {"train": train, "auxiliary": auxiliary, "held_out": held_out, "test": test, "fit_data": fit_data}
    loaders |= {f"ood/{name}": loader for name, loader in (ood or {}).items()}
    for name in names or {}:
        if name not in ("classifier", *loaders):
            raise unknown_name("part of the record", name, ("classifier", *loaders))
    check_trainable(classifier)
    named = None if detectors is None else name_detectors(detectors)
    if ood:
        check_names(ood.keys(), (), groups or {})
        if test is None:
            raise SettingError("`test` must be ID test data where there is `ood`; got None.")
    others = None if auxiliary is None else _shuffled(auxiliary)
    outliers = None if others is None else Auxiliary(others)
    chosen.maker(outliers)
    folder = None if output is None else Path(output)
    unfinished = None
    if folder is not None:
        check_replaceable(folder, MARKER)
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        known: dict[str, DataIdentity] = {}  # digested while they are read, to tell what may be resumed
        if folder is not None:
            given = {"train": train, "held_out": held_out, "auxiliary": others}
            known = {DIGESTED[name]: DataIdentity(data, seed) for name, data in given.items() if data is not None}
        network = network_of(classifier, known.get("training data", train), chosen)
        least = 0.0
        if held_out is not None:
            least = accuracy(classifier.model, known.get("held-out data", held_out)) - accuracy_lost
        begun_on = {name: data.text() for name, data in known.items()} | {"accuracy lost": str(accuracy_lost)}
    classifiers, histories = {BEFORE: classifier}, {}
    for each in (recipe_of(PLAIN), chosen):
        if each.name in histories:
            continue
        alike = _alike(each, chosen)
        model = copy.deepcopy(classifier.model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if alike.head is not None:
                replace_head(model, alike.head, classifier.head_name)
            loss = alike.loss_for(network)
        training = Training(
            model,
            alike,
            loss,
            alike.maker(outliers),
            _shuffled(train),
            epochs,
            seed,
            alike.learning_rate,
            dtype,
            held_out,
            least,
            None if unfinished is None else unfinished / f"{alike.name}.pt",
            begun_on,
            head=classifier.head_name if classifier.head_is_named and alike.head is None else None,
            feature_map=classifier.feature_map_name,
        )
        histories[alike.name] = training.run(progress=progress)
        classifiers[alike.name] = _like(classifier, model, replaced=alike.head is not None)
    comparison = None
    if ood and test is not None:
        data = _plain(train) if fit_data is None else fit_data
        tables = {
            name: _table(name, each, data, test, ood, groups, named, bootstrap, progress)
            for name, each in classifiers.items()
        }
        comparison = Comparison(tables, notes(histories))
    plain = classifiers[PLAIN] if chosen.name != PLAIN else None
    setup = {
        "epochs": epochs,
        "seed": seed,
        "dtype": dtype,
        "accuracy_lost": None if held_out is None else accuracy_lost,
        "bootstrap": asdict(bootstrap) if isinstance(bootstrap, Bootstrap) else bootstrap,
        "classifier": {
            "name": (names or {}).get("classifier"),
            "head": classifier.head_name,
            "head_sha256": classifier.head.fingerprint,
        },
        "data": {
            name: data_record(loader, (names or {}).get(name), begun_on.get(DIGESTED.get(name, "")))
            for name, loader in (loaders | {"auxiliary": others}).items()
            if loader is not None
        },
    }
    found = FineTuned(classifiers[chosen.name], plain, chosen, histories, comparison, setup)
    if folder is not None and unfinished is not None:
        write_folder(folder, lambda new: _write(found, new), marker=MARKER)
        remove(unfinished)
    return found


def _alike(recipe: Recipe, chosen: Recipe) -> Recipe:
    # plain cross-entropy with the optimiser of the recipe that it is compared with
    if recipe.name == chosen.name:
        return chosen
    return replace(
        recipe,
        optimiser=chosen.optimiser,
        nesterov=chosen.nesterov,
        weight_decay=chosen.weight_decay,
        schedule=chosen.schedule,
        learning_rate=chosen.learning_rate,
    )


def _shuffled(loader: Iterable[Any]) -> Iterable[Any]:
    return Shuffled(loader) if isinstance(loader, KnownLoader) else loader


def _plain(loader: Iterable[Any]) -> Iterable[Any]:
    return loader.loader if isinstance(loader, Shuffled) else loader


def _like(classifier: Classifier, model: nn.Module, *, replaced: bool) -> Classifier:
    head = classifier.head_name if classifier.head_is_named and not replaced else None
    made = Classifier(
        model,
        head,
        feature_map=classifier.feature_map_name,
        dtype=classifier.dtype,
        compile=classifier.compile_backend or False,
    )
    made.preprocessing, made.class_names = classifier.preprocessing, classifier.class_names
    made.preprocessing_origin = classifier.preprocessing_origin
    return made


def _table(
    name: str,
    classifier: Classifier,
    data: Iterable[Any],
    test: Iterable[Any],
    ood: Mapping[str, Iterable[Any]],
    groups: Mapping[str, Sequence[str]] | None,
    detectors: Mapping[str, Detector] | None,
    bootstrap: Bootstrap | int | None,
    progress: bool,
) -> Table:
    # anew for each classifier: what is fitted on one is of no use for another
    if detectors is None:
        wanted = {"default": default_detector(classifier), **{name: create_detector(name) for name in CHEAP}}
    else:
        wanted = copy.deepcopy(dict(detectors))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(wanted, classifier, data, on_failure="skip", progress=progress)
    for each in caught:  # of three networks: say of which
        warn(f"{'before fine-tuning' if name == BEFORE else f'after {name}'}: {each.message}", each.category)
    return evaluate(fitted.detectors, classifier, test, ood, groups=groups, bootstrap=bootstrap, progress=progress)


def _write(found: FineTuned, folder: Path) -> None:
    for name, each in ((found.recipe.name, found.classifier), (PLAIN, found.plain)):
        if each is not None:
            asked = {setting: str(found.setup[setting]) for setting in ("epochs", "seed")}
            metadata = {"recipe": name, **asked, "oodline": __version__}
            save_checkpoint(each.model, folder / f"{name}.safetensors", metadata)
    if found.comparison is not None:
        (folder / "table.md").write_text(found.comparison.to_markdown() + "\n", encoding="utf-8")
    document = json.dumps(found.to_dict(), indent=2, allow_nan=False)
    (folder / MARKER).write_text(document + "\n", encoding="utf-8")


__all__ = ["CHEAP", "RECIPES", "FineTuned", "finetune"]
