"""Results of detectors that activations on disk cannot serve: their fitted state and their scores are kept instead.

Some detectors run the classifier again, or read feature maps. A second benchmark would make their passes anew, so what
came of them is kept beside the activations, known by those activations' key, by the detector's settings and fitted
tensors, and by oodline's own code, since a changed method gives another result under the same name. Nothing is kept of
a user's own detectors, whose code may change at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from oodline._util.digests import combine, digest
from oodline._util.files import write_atomically
from oodline.data.batch import KnownLoader
from oodline.detectors.base import Detector
from oodline.detectors.catalog import is_own
from oodline.detectors.max_logit import MaxLogit
from oodline.errors import ArtifactError
from oodline.evaluation.cache import CachedClassifier
from oodline.evaluation.identity import code_digest
from oodline.guard.artifact import Artifact, describe, read_artifact, write_artifact
from oodline.model.classifier import Classifier
from oodline.model.head import HeadInfo
from oodline.scoring.score import Scores, score_all
from oodline.scoring.split import SplitLoader


def restore_fitted(
    detectors: Mapping[str, Detector], classifier: Classifier, loader: KnownLoader
) -> dict[str, Detector]:
    """Those detectors that need the network and were fitted on this very data before, fitted; none without a cache."""
    restored = {}
    for label, detector in detectors.items():
        if isinstance(classifier, CachedClassifier) and _is_kept(detector) and detector.has_state:
            try:
                artifact = read_artifact(_place_of_state(detector, classifier, loader))
                artifact.check(classifier)
            except (ArtifactError, OSError):
                continue
            restored[label] = artifact.detectors[detector.name].to(classifier.device)
    return restored


def _is_kept(detector: Detector) -> bool:
    return detector.needs_network and not is_own(detector)


def keep_fitted(detectors: Mapping[str, Detector], classifier: Classifier, loader: KnownLoader) -> None:
    """Keep the state of detectors that need the network; nothing without a cache."""
    for detector in detectors.values():
        if isinstance(classifier, CachedClassifier) and _is_kept(detector) and detector.has_state:
            path = _place_of_state(detector, classifier, loader)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_artifact(Artifact({detector.name: detector}, HeadInfo.of(classifier.head)), path)


def score_or_recall(
    detectors: Mapping[str, Detector],
    classifier: Classifier,
    loader: KnownLoader | SplitLoader,
    *,
    progress: bool = False,
) -> Scores:
    """As `score_all`, skipping failures, with the scores of costly detectors from disk where they are there.

    The network runs once over what is not on disk, and not at all where everything is.
    """
    if not isinstance(classifier, CachedClassifier):
        return score_all(detectors, classifier, loader, on_failure="skip", progress=progress)
    shards = classifier.shards(loader)
    key = combine([shards.key, loader.fraction, loader.first]) if isinstance(loader, SplitLoader) else shards.key
    places = {label: _place_of_scores(d, classifier, key) for label, d in detectors.items() if _is_kept(d)}
    recalled = {label: kept for label, place in places.items() if (kept := _read_scores(place)) is not None}
    costs = {label: d for label, d in detectors.items() if d.needs_network and label not in recalled}
    cheap: dict[str, Detector] = {label: d for label, d in detectors.items() if not d.needs_network}
    together = bool(costs) and bool(shards.missing())
    # a pass from disk gives labels and predicted classes, too, so one is made even if nothing else is asked of it
    first = cheap | costs if together else cheap or {"": MaxLogit()}
    passes = [score_all(first, classifier, loader, on_failure="skip", progress=progress)]
    if costs and not together:
        passes.append(score_all(costs, classifier, loader, on_failure="skip", progress=progress))
    scored = {label: (values, each.seconds[label]) for each in passes for label, values in each.scores.items()}
    for label in costs.keys() & places.keys() & scored.keys():
        _write_scores(places[label], *scored[label])
    scored |= recalled
    there = [label for label in detectors if label in scored]
    return replace(
        passes[0],
        scores={label: scored[label][0] for label in there},
        seconds={label: scored[label][1] for label in there},
        failures={label: error for each in passes for label, error in each.failures.items()},
    )


def _place_of_state(detector: Detector, classifier: CachedClassifier, loader: KnownLoader) -> Path:
    about = [classifier.shards(loader).key, describe(detector).model_dump_json(), code_digest()]
    return classifier.folder / "detectors" / f"{combine(about)}.safetensors"


def _place_of_scores(detector: Detector, classifier: CachedClassifier, key: str) -> Path:
    state = {name: tensor.cpu() for name, tensor in detector.state_dict().items()}
    about = [key, describe(detector).model_dump_json(), digest(save(dict(sorted(state.items())))), code_digest()]
    return classifier.folder / "scores" / f"{combine(about)}.safetensors"


def _write_scores(path: Path, scores: Tensor, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"seconds": json.dumps(seconds), "sha256": _digest(scores, seconds)}
    write_atomically(path, lambda file: file.write(save({"scores": scores.contiguous()}, about)))


def _read_scores(path: Path) -> tuple[Tensor, float] | None:
    try:
        with safe_open(path, framework="pt") as file:
            about, scores = file.metadata() or {}, file.get_tensor("scores").clone()
        seconds = float(about["seconds"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None  # absent or damaged: computed again
    sound = scores.dtype == torch.float64 and about.get("sha256") == _digest(scores, seconds)
    return (scores, seconds) if sound else None


def _digest(scores: Tensor, seconds: float) -> str:
    return digest(scores, json.dumps(seconds))
