"""`finetune`: what a training recipe would gain on a classifier, beside plain cross-entropy for as long."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from oodline._util.checked import checked
from oodline._util.folders import check_replaceable, write_folder
from oodline._util.ranges import Positive, Range, Seed, Share
from oodline._util.temporary import remove
from oodline._version import __version__
from oodline.data.batch import KnownLoader, Loader
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.default import default_detector
from oodline.detectors.fit import fit
from oodline.detectors.named import Detectors, name_detectors
from oodline.errors import SettingError
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
from oodline.training.epochs import History, Training, accuracy
from oodline.training.head import replace_head
from oodline.training.recipe import RECIPES, Recipe, recipe_of
from oodline.training.shuffled import Shuffled
from oodline.training.trainable import check_trainable, network_of

CHEAP = ("msp", "max-logit", "energy", "gen", "feature-norm", "fdbd", "react", "line", "vim", "knn", "mahalanobis")
"""Detectors that read features and logits alone and are fitted in seconds; the default is put before them."""

Epochs = Annotated[int, Range(1, 10**6)]

PLAIN, BEFORE, MARKER = "cross-entropy", "before", "finetuned.json"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What `finetune` gave.

    Parameters
    ----------
    classifier : Classifier
        Fine-tuned by the recipe.
    plain : Classifier, optional
        The same one fine-tuned by cross-entropy, for as many epochs, by the same optimiser; None where the recipe is
        that.
    recipe : Recipe
        With its settings.
    histories : dict of str to History
        Loss, accuracy and seconds of each training, by name: "cross-entropy" and the recipe's.
    comparison : Comparison, optional
        Before, plain and recipe under every detector; None without OOD data.
    """

    classifier: Classifier
    plain: Classifier | None
    recipe: Recipe
    histories: dict[str, History]
    comparison: Comparison | None = None

    @property
    def time_ratio(self) -> float | None:
        """Seconds per epoch of the recipe over those of plain cross-entropy, both as medians."""
        if self.plain is None:
            return None
        ours, theirs = (torch.tensor(self.histories[n].seconds).median() for n in (self.recipe.name, PLAIN))
        return float(ours / theirs)

    def to_dict(self) -> dict[str, Any]:
        """Recipe, histories and tables as plain data."""
        return {
            "oodline": __version__,
            "recipe": self.recipe.name,
            "settings": dict(self.recipe.settings),
            "histories": {name: asdict(history) for name, history in self.histories.items()},
            "time_ratio": self.time_ratio,
            "tables": None if self.comparison is None else self.comparison.to_dict(),
        }


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
    output : str or Path, optional
        Folder for both checkpoints, the table and the record.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    FineTuned
        Both classifiers, the histories and the comparison.

    Raises
    ------
    UnknownNameError
        There is no such recipe.
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
    rate = chosen.learning_rate if learning_rate is None else learning_rate
    with torch.random.fork_rng():
        known: dict[str, DataIdentity] = {}  # digested while they are read, to tell what may be resumed
        if folder is not None:
            given = {"training data": train, "held-out data": held_out, "auxiliary data": others}
            known = {name: DataIdentity(data, seed) for name, data in given.items() if data is not None}
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
            rate,
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
            name: _table(each, data, test, ood, groups, named, bootstrap, progress)
            for name, each in classifiers.items()
        }
        comparison = Comparison(tables)
    plain = classifiers[PLAIN] if chosen.name != PLAIN else None
    found = FineTuned(classifiers[chosen.name], plain, chosen, histories, comparison)
    if folder is not None and unfinished is not None:
        write_folder(folder, lambda new: _write(found, new, seed, epochs), marker=MARKER)
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
    fitted = fit(wanted, classifier, data, on_failure="skip", progress=progress)
    return evaluate(fitted.detectors, classifier, test, ood, groups=groups, bootstrap=bootstrap, progress=progress)


def _write(found: FineTuned, folder: Path, seed: int, epochs: int) -> None:
    for name, each in ((found.recipe.name, found.classifier), (PLAIN, found.plain)):
        if each is not None:
            metadata = {"recipe": name, "epochs": str(epochs), "seed": str(seed), "oodline": __version__}
            save_checkpoint(each.model, folder / f"{name}.safetensors", metadata)
    if found.comparison is not None:
        (folder / "table.md").write_text(found.comparison.to_markdown() + "\n", encoding="utf-8")
    document = json.dumps(found.to_dict(), indent=2, allow_nan=False)
    (folder / MARKER).write_text(document + "\n", encoding="utf-8")


__all__ = ["CHEAP", "RECIPES", "FineTuned", "finetune"]
