"""Scores of training samples by detectors that were fitted without them: what new ID data would get, as far as known.

K-fold cross-fitting (Chernozhukov et al., The Econometrics Journal 2018, Sec. 3; as in cross-validation).
"""

from __future__ import annotations

import copy
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import OodlineError
from oodline.model.activations import Activations

FOLDS = 5

MOST_CLASSES = 500
"""Above, a fold has no sample of most classes, and a fit for each fold takes long."""


def held_out_scores(detector: Detector, activations: Activations, labels: Tensor) -> Float[Tensor, " n"]:
    """Score each of N samples by a copy of the detector that is fitted on the other folds.

    A detector that needs no fitting, or cannot be fitted without a fold, as where that takes a class away, scores as it
    is.

    Parameters
    ----------
    detector : Detector
        Fitted on these samples; left as it is.
    activations : Activations
        Of all samples it was fitted on, in an order that has nothing to do with what they show.
    labels : Tensor (N,), int64
        Their classes.

    Examples
    --------
    >>> from oodline import KNN
    >>> from oodline.testing import toy_problem
    >>> classifier, [(inputs, labels)] = toy_problem()
    >>> knn, activations = KNN(k=1).fit(classifier, [(inputs, labels)]), classifier(inputs)
    >>> float(knn(activations).max()) == 0, float(held_out_scores(knn, activations, labels).max()) < 0
    (True, True)
    """
    own: Tensor = detector(activations)
    if not detector.has_state or activations.head.num_classes > MOST_CLASSES:
        return own
    fold = torch.arange(len(labels)) % FOLDS
    scores = torch.empty_like(own)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is to be said of the samples, the fit on all of them said
            for k in range(FOLDS):
                without = copy.deepcopy(detector)
                requests = without._requests(activations.head)
                for statistic in requests.values():
                    statistic.update(activations.take(fold != k), labels[fold != k])
                without._settle(requests, activations.head)
                scores[(fold == k).to(scores.device)] = without(activations.take(fold == k)).to(scores)
    except OodlineError:
        return own
    return scores
