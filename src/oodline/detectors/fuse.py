"""A detector made of detectors: their p-values, combined (Magesh et al., JMLR 2023, for the idea).

Detectors see different things, and on different scales. A p-value is a scale that all of them share: how usual is this
score among ID scores of the same detector?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.activations import Activations, Needs
from oodline.classifier import Classifier
from oodline.detectors.base import Detector, Paper
from oodline.detectors.catalog import create_detector
from oodline.detectors.combining import RULES
from oodline.detectors.p_values import log_p_values, scale_of
from oodline.errors import InputError, MismatchError, NotFittedError, SettingError
from oodline.fitting import reads
from oodline.head import Head, HeadInfo
from oodline.progress import track
from oodline.statistics import ContentSketch, Reservoir, Statistic

DEFAULT = "line:clip=98%+gen+fdbd+vim"
"""Of all that fuse up to four detectors, LINe among them, which says what an alarm is about, the best against
pseudo-outliers made of ID data. `benchmarks/fuse_study.py` shows how it was chosen, and what else was tried."""

SIZE = 1000
"""Samples of the training data that members are compared on, at most."""

FEWEST = 10
"""Reference samples that say something of a tail."""

CHUNK = 256
"""Reference samples that a member scores at a time."""

KNOWN = Needs.LOGITS | Needs.FEATURES | Needs.HEAD | Needs.LINEAR_HEAD
"""What is kept of a reference sample until the members are fitted."""


class Fuse(Detector):
    """The p-values of several detectors, combined: by default `sum_i log p_i`. Higher = more in-distribution.

    Each member's score becomes a p-value against the member's scores of a reference sample of ID data (see
    `p_values.log_p_values` for what lies between and beyond them), and a rule combines the M p-values (see
    `combining`). With Fisher's rule the range is (-inf, 0), no unit.

    `fit` takes the reference from the data that it is fitted on, at most 1,000 samples by a hash of their index, so
    one pass does it all. Members that remember their data, or have few samples a class, find it more usual than new
    data; `refer` then takes a reference of held-out ID data, of which 100 samples are enough.

    The members' p-values depend on one another, and against a reference that was fitted on they are too small for new
    data. Neither harms the promise on false alarms: `Guard.calibrate` compares the fused score of a new input with
    those of held-out inputs, which must be neither fitted on nor referred to: one fixed function scores both.

    Parameters
    ----------
    detectors : str or sequence of str or Detector
        At least two: detectors, references to them as on the command line, or such references in one text, joined by
        "+", their settings by ":", as in "line:p_a=0.5:clip=98%+energy+knn". They read features and logits only.
    rule : {"fisher", "stouffer", "harmonic", "cauchy", "minimum"}
        How p-values are combined.

    Raises
    ------
    SettingError
        Fewer than two members, one that reads more than features and logits, or an unknown rule.
    UnknownNameError
        There is no such detector.
    InputError
        Fewer than 10 reference samples were seen.

    Examples
    --------
    >>> from oodline import KNN, Energy
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> fuse = Fuse([Energy(), KNN(k=5)]).fit(classifier, loader)
    >>> fuse(classifier(loader[0][0])).shape
    torch.Size([60])
    >>> list(fuse.refer(classifier, toy_loader(seed=1)).p_values(classifier(loader[0][0])))
    ['energy', 'knn']
    """

    name: ClassVar = "fuse"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.HEAD
    paper: ClassVar = Paper("Principled Out-of-Distribution Detection via Multiple Testing", "JMLR 2023", "2206.09522")
    fitted_buffers: ClassVar = ("scale",)
    scale: Tensor

    def __init__(
        self,
        detectors: str | Sequence[str | Detector] = DEFAULT,
        *,
        rule: Literal["fisher", "stouffer", "harmonic", "cauchy", "minimum"] = "fisher",
    ) -> None:
        super().__init__()
        if not isinstance(rule, str) or rule not in RULES:
            raise SettingError(f"Fuse knows rule={', '.join(map(repr, RULES))}, not {rule!r}.")
        self.rule = rule
        parts = detectors.split("+") if isinstance(detectors, str) else detectors
        if not isinstance(parts, Sequence) or not all(isinstance(given, str | Detector) for given in parts):
            raise SettingError(f"Fuse combines detectors, or references to them such as 'line+knn'; not {detectors!r}.")
        for given in parts:
            self._add(create_detector(given.replace(":", ",")) if isinstance(given, str) else given)
        if len(self.members) < 2:
            raise SettingError(f"Fuse combines at least two detectors; {len(self.members)} was given.")

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """The members, in the order in which they were given."""
        return tuple(member for _, member in self.members)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the features, to be scored by the members once these are fitted."""
        return {"reference": Reservoir(SIZE)}

    def estimate(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Score the sample by the fitted members."""
        rows: Tensor = statistics["reference"].rows
        scores = []
        for features in torch.split(rows.to(head.linear.weight.device), CHUNK):
            here = head.to(features)
            logits, index = here(features), torch.arange(len(features))
            scores.append(self.member_scores(Activations(features, logits, here, index)))
        self.scale = self._scale_of(scores)

    def refer(self, classifier: Classifier, loader: Iterable[Any], *, progress: bool = False) -> Self:
        """Compare with this held-out ID data from now on, in place of the data that it was fitted on.

        Parameters
        ----------
        classifier : Classifier
            The classifier that it was fitted on.
        loader : iterable
            Batches of held-out ID data, at least 10 samples, better 100; labels are not used. Do not calibrate a guard
            on the same samples, which `SeenDataWarning` recognises. `oodline.split` makes two loaders of one.
        progress : bool
            Show a progress bar on standard error.

        Raises
        ------
        NotFittedError
            A member is not fitted; that each was fitted by itself is enough.
        MismatchError
            A member was fitted on another classifier.
        InputError
            Fewer than 10 samples, or NaN or infinite activations.
        """
        for _, member in self.members:
            if member.fitted_on is not None:
                classifier.expect(member.fitted_on)
        head = HeadInfo.of(classifier.head)
        for name, member in self.members:
            if not member.fitted:
                raise NotFittedError(f"the member '{name}' is not fitted. Call Fuse.fit(...) before refer(...).")
            if member.fitted_on is not None and member.fitted_on.fingerprint != head.fingerprint:
                raise MismatchError(
                    f"the member '{name}' was fitted on another classifier: fingerprint "
                    f"{member.fitted_on.fingerprint[:12]}, this one's is {head.fingerprint[:12]}. Fit it again."
                )
        scores, sketch = [], ContentSketch()
        for activations, _ in track(classifier.stream(loader, **reads([self])), "reference", loader, shown=progress):
            with torch.no_grad():
                scores.append(self.member_scores(activations))
            sketch.update(activations, None)
        # what the members were fitted on they remember themselves
        self.scale, self.seen = self._scale_of(scores), sketch.hashes.to(scores[0].device)
        self.mark_fitted(head)
        return self

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """The combined p-values (N,)."""
        return RULES[self.rule](self.log_p_values(activations))

    def member_scores(self, activations: Activations) -> Float[Tensor, "n m"]:
        """Score of each member (N, M), float32, higher = more in-distribution."""
        return torch.stack([member(activations).float() for member in self.detectors], dim=1)

    def log_p_values(self, activations: Activations) -> Float[Tensor, "n m"]:
        """Logarithm of each member's p-value (N, M)."""
        return log_p_values(self.member_scores(activations).to(self.scale), self.scale)

    def p_values(self, activations: Activations) -> dict[str, Float[Tensor, " n"]]:
        """Each member's p-value (N,), by its name: the smallest is of the member that finds an input strangest.

        On the scale of the reference: for ID inputs uniform in (0, 1) where that was held out, smaller where the
        members were fitted on it.
        """
        columns = self.log_p_values(activations).exp().unbind(1)
        return {name: column for (name, _), column in zip(self.members, columns, strict=True)}

    def _add(self, member: Detector) -> None:
        if member.all_layers or member.all_needs & ~KNOWN:
            raise SettingError(
                f"Fuse compares its members on a sample of features that is kept from the one pass; '{member.name}' "
                "reads more than features and logits. Take another one, or evaluate it beside the fused ones."
            )
        again = sum(type(known) is type(member) for known in self.detectors)
        self.add_module(f"{member.name}-{again + 1}" if again else member.name, member)

    def _scale_of(self, scores: Sequence[Tensor]) -> Tensor:
        count = sum(map(len, scores))
        if count < FEWEST:
            raise InputError(f"Fuse compares its members on at least {FEWEST} ID samples; {count} were seen.")
        return scale_of(torch.cat(list(scores)))
