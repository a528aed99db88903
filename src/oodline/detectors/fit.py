"""`oodline.fit`: fit one detector or several, given as objects or by name."""

from __future__ import annotations

from typing import Literal

from oodline._util.checked import checked
from oodline.data.batch import Loader
from oodline.detectors.named import Fittables, name_detectors
from oodline.model.classifier import Classifier
from oodline.passes.engine import Engine
from oodline.passes.fit import fit_all
from oodline.passes.fit_result import FitResult


@checked
def fit(
    detectors: Fittables,
    classifier: Classifier,
    loader: Loader = (),
    *,
    on_failure: Literal["raise", "skip"] = "raise",
    engine: Engine | None = None,
    progress: bool = False,
) -> FitResult:
    """Fit detectors on ID training data in one forward pass, in memory that does not grow with the data.

    Parameters
    ----------
    detectors : Detector, name, iterable of them, or mapping from names to them
        Fitted in place; a name with settings, such as "line,p_a=0.5", stands for a new one, which is in the result.
        Two of the same method need a mapping. Those that need no data are left as they are; if none needs any, no pass
        is made.
    classifier : Classifier
        The frozen classifier.
    loader : iterable, optional
        Needed unless no detector reads data. Batches of (inputs, labels): inputs (N, ...) as the model takes them,
        integer labels (N,) in the order of the logits. Anything `Classifier.stream` takes.
    on_failure : {"raise", "skip"}
        Where some detectors cannot be fitted: raise an error, or go on with the others, perhaps none, and say why in
        `failures`. What fails for all of them, such as NaN activations, is raised in any case.
    engine : Engine, optional
        Who makes the pass: this process, or `Torchrun()` or `Ray(...)`, with the same result.
    progress : bool
        Show a progress bar with rate and time left on standard error.

    Returns
    -------
    FitResult
        The fitted detectors by name, failures with their reasons, and seconds.

    Warns
    -----
    UserWarning
        The classes of the data do not look like those of the classifier: another number, alphabetical where natural
        order differs, or some classes right and others predicted as one another.
    AssumptionWarning
        The data does not bear out what a detector supposes of it, or a setting does not fit it; says the number.

    Raises
    ------
    InputError
        Empty loader, NaN or infinite activations.
    SettingError
        An argument is something else, or two detectors share a name.
    LabelError
        Labels missing or out of range, or a class without samples where a detector needs one.
    FitError
        Several detectors were asked for and some could not be estimated; names each with its reason. The others are
        fitted. A single one raises its own error.

    Notes
    -----
    A detector without state that supposes something of the features, such as ASH, has a pass made for this check.

    Examples
    --------
    >>> import torch
    >>> from oodline import Classifier, LINe, Mahalanobis, fit
    >>> _ = torch.manual_seed(0)
    >>> classifier = Classifier(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)))
    >>> loader = [(torch.randn(60, 4), torch.arange(60) % 3)]
    >>> line, mahalanobis = LINe(), Mahalanobis()
    >>> list(fit([line, mahalanobis], classifier, loader).detectors)
    ['line', 'mahalanobis']
    >>> line.fitted and mahalanobis.fitted
    True
    >>> fit("knn,k=5", classifier, loader).detectors["knn"].k
    5
    """
    return fit_all(
        name_detectors(detectors), classifier, loader, on_failure=on_failure, engine=engine, progress=progress
    )
