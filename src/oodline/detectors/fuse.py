"""A detector made of detectors: their p-values, combined (Magesh et al., JMLR 2023, for the idea).

Detectors see different things, and on different scales. A p-value is a scale that all of them share: how usual is this
score among ID scores of the same detector?
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.progress import track
from oodline._util.warning import warn
from oodline.data.batch import Loader
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.cross_fitting import held_out_scores
from oodline.detectors.fitted import Fitted
from oodline.detectors.member_rule import CANDIDATES, choose_members
from oodline.detectors.paper import Paper
from oodline.detectors.parts.combining import RULES, moments_of, z_sum
from oodline.detectors.parts.p_values import WIDTH, log_p_values, scale_of
from oodline.detectors.parts.reference import (
    SIZE,
    check_kept,
    reference_activations,
    reference_statistics,
    vectors_of,
)
from oodline.errors import InputError, MismatchError, NotFittedError, OodlineError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.head import Head, HeadInfo
from oodline.model.layers import Layer
from oodline.passes.fit import reads
from oodline.statistics import Backbone, ContentSketch, Reservoir, Statistic

FEWEST = 10
"""Reference samples that say something of a tail."""

CHUNK = 256
"""Reference samples that a member scores at a time."""

SAME = 1e-6
"""Range of reference scores, relative to the largest, within which they say nothing."""


class MemberLeftOutWarning(UserWarning):
    """A detector made of detectors does without one of them."""


class Fuse(Detector):
    """The p-values of several detectors, combined: by default `sum_i log p_i`. Higher = more in-distribution.

    Each member's score becomes a p-value against the member's scores of a reference sample of ID data (see
    `p_values.log_p_values` for what lies between and beyond them), and a rule combines the M p-values (see
    `combining`). With Fisher's rule the range is (-inf, 0), no unit.

    `fit` takes the reference from the data that it is fitted on, at most 1,000 samples by a hash of their index, so
    one pass does it all. Members that remember their data, or have few samples per class, find it more usual than new
    data. So where 1,000 samples or fewer are all there is, each is scored by members that were fitted without it (see
    `cross_fitting`), and `Guard.calibrate` and `oodline fit --calibrate` take a reference of held-out ID data, as
    `set_reference` does; 20 samples are enough.

    A member is left out, with a warning, where it cannot be fitted on the data, says that its scores mean little there
    (`Detector.unreliable`), or gives all of the reference the same score: see `members_left_out`.

    The members' p-values depend on one another, and against a reference that was fitted on they are too small for new
    data. Neither harms the promise on false alarms: `Guard.calibrate` compares the fused score of a new input with
    those of held-out inputs, which must be neither fitted on nor referred to: one fixed function scores both.

    Parameters
    ----------
    detectors : str or sequence of str or Detector
        At least two: detectors, references to them as on the command line, or such references in one text, joined by
        "+", their settings by ":", as in "line:p_a=0.5:clip=98%+energy+knn". They read features, logits and vectors of
        layers, such as `layered-mahalanobis` does, of which as many samples are kept during the fit; not whole maps.
        "auto" lets the fit choose by what the network's features are like (`member_rule`).
    rule : {"fisher", "stouffer", "harmonic", "cauchy", "minimum", "z-sum"}
        How p-values are combined. With "z-sum" it is the scores themselves, `sum_i (s_i - mean_i) / deviation_i` by
        mean and standard deviation of the reference, with range (-inf, inf): the rule of CombOOD (Rajasekaran et al.,
        SDM 2024, arXiv 2602.07042), which sums a Mahalanobis distance and the distance to a near neighbour, here
        `Fuse([Mahalanobis(), KNN(k=10)], rule="z-sum")`.

    Raises
    ------
    SettingError
        Fewer than two members, one that reads more than is kept of the reference, or an unknown rule.
    UnknownNameError
        There is no such detector.
    InputError
        Fewer than 10 reference samples were seen.

    Warns
    -----
    MemberLeftOutWarning
        A member is left out.

    Examples
    --------
    >>> from oodline import KNN, Energy
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> fuse = Fuse([Energy(), KNN(k=5)]).fit(classifier, loader)
    >>> fuse(classifier(loader[0][0])).shape
    torch.Size([60])
    >>> list(fuse.set_reference(classifier, toy_loader(seed=1)).p_values(classifier(loader[0][0])))
    ['energy', 'knn']
    """

    name: ClassVar = "fuse"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.HEAD
    paper: ClassVar = Paper("Principled Out-of-Distribution Detection via Multiple Testing", "JMLR 2023", "2206.09522")
    scale: Fitted[Float[Tensor, "M Q"]]

    def __init__(
        self,
        detectors: str | Sequence[str | Detector] = "auto",
        *,
        rule: Literal["fisher", "stouffer", "harmonic", "cauchy", "minimum", "z-sum"] = "fisher",
    ) -> None:
        super().__init__()
        self.rule = rule
        self._chooses = isinstance(detectors, str) and detectors == "auto"
        if self._chooses:
            detectors = CANDIDATES
        parts = detectors.split("+") if isinstance(detectors, str) else detectors
        for given in parts:
            self._add(create_detector(given.replace(":", ",")) if isinstance(given, str) else given)
        if len(self.members) < 2:
            raise SettingError(f"`detectors` must be at least two detectors to combine; got {len(self.members)}.")
        self._given = dict(self.members)
        self.reference_is_given = False
        """Whether `set_reference` was called; otherwise calibration takes a reference of its own."""

    @property
    def detectors(self) -> tuple[Detector, ...] | str:
        """The detectors that were given, or chosen, in their order; `members` are those in use. "auto" before a fit."""
        if self._chooses and not self.reason:
            return "auto"
        return tuple(each for name, each in self._given.items() if name in {**self._modules, **self.members_left_out})

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """What its members read of layers, also those that are not in use, since a fit may take them in again."""
        return tuple(layer for member in self._given.values() for layer in member.all_layers)

    def use_classifier(self, classifier: Classifier) -> None:
        """As of any detector, also for members that are not in use."""
        for member in self._given.values():
            member.use_classifier(classifier)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of features and layers, to be scored by the members once these are fitted."""
        return reference_statistics(vectors_of(self.all_layers))

    def _requests(self, head: Head) -> dict[str, Statistic]:
        """As of any detector, also for members that are not in use, and for the choice of them."""
        found = super()._requests(head)
        for name in self._given:
            if name not in self._modules:
                found |= {f"{name}.{key}": statistic for key, statistic in self._given[name]._requests(head).items()}
        return {**found, **Backbone.statistics()} if self._chooses else found

    def _settle(self, statistics: Mapping[str, Statistic], head: Head) -> None:
        """As of any detector, but members may be chosen first, and one whose estimate fails is left out."""
        before = dict(self._modules), self.members_left_out, self.reference_is_given, self.reason
        self._modules, self.members_left_out, self.reference_is_given = dict(self._given), {}, False
        self.reason = ""
        try:
            if self._chooses:
                profile = {name: statistics[name] for name in Backbone.statistics()}
                statistics = {name: each for name, each in statistics.items() if name not in profile}
                self._choose(Backbone.of(profile, head))
            super()._settle(statistics, head)
        except BaseException:
            self._modules, self.members_left_out, self.reference_is_given, self.reason = before
            raise
        self._warn_of_left_out()

    def _choose(self, backbone: Backbone | None) -> None:
        if backbone is None:
            raise InputError("Fuse chooses its members by the features that it sees, and it saw none. Give it data.")
        choice = choose_members(backbone)
        self._modules = {name: self._given[name] for name in choice.members}
        self.reason = choice.reason

    def _settle_member(self, name: str, member: Detector, statistics: Mapping[str, Statistic], head: Head) -> None:
        """Settle a member, or leave it out; the last one may not fail."""
        try:
            member._settle(statistics, head)
        except OodlineError as error:
            if len(self.members) == 1:
                raise
            self.leave_out({name: str(error)})
            return
        if member.unreliable and len(self.members) > 1:
            self.leave_out({name: member.unreliable})

    def leave_out(self, members: Mapping[str, str]) -> None:
        """Do without these members, by name, for the reasons given.

        Raises
        ------
        SettingError
            There is no such member, or no other one.
        """
        if strange := [name for name in members if name not in self._modules]:
            raise SettingError(f"Fuse has no member '{strange[0]}' in use; it has {', '.join(self._modules)}.")
        if len(members) >= len(self.members):
            raise SettingError(f"Fuse cannot do without all of {', '.join(members)}.")
        if self.scale is not None and len(self.scale) == len(self.members):
            self.scale = self.scale[torch.tensor([name not in members for name, _ in self.members])]
        self._modules = {name: module for name, module in self._modules.items() if name not in members}
        self.members_left_out = {**self.members_left_out, **members}

    def estimate(self, head: Head, reference: Reservoir, **layers: Reservoir) -> None:
        """Score the sample by the fitted members."""
        _check_enough(len(reference.rows))
        vectors = [layers[f"layer_{i}"] for i in range(len(layers))]
        everything = reference_activations(head, reference, vectors_of(self.all_layers), vectors)
        if len(everything) < SIZE:
            scores = [held_out_scores(member, everything, reference.groups).float() for _, member in self.members]
            self._take_scale([torch.stack(scores, dim=1)])
            return
        self._take_scale([self.member_scores(everything.take(rows)) for rows in torch.split(everything.index, CHUNK)])

    def _take_scale(self, scores: Sequence[Tensor]) -> None:
        reference = torch.cat(list(scores))
        _check_enough(len(reference))
        low, high = reference.amin(0), reference.amax(0)
        says = reference.isfinite().all(0) & (high - low > SAME * torch.maximum(low.abs(), high.abs()))
        silent = [name for (name, _), each in zip(self.members, says.tolist(), strict=True) if not each]
        if 0 < len(silent) < len(self.members):
            reason = f"it gives {len(reference)} reference samples the same score, or no number"
            self.leave_out(dict.fromkeys(silent, reason))
            reference = reference[:, says]
        scale = scale_of(reference)
        self.scale = torch.cat([scale, moments_of(reference)], dim=1) if self.rule == "z-sum" else scale

    def _warn_of_left_out(self, before: Collection[str] = ()) -> None:
        for name, reason in self.members_left_out.items():
            if name not in before:
                warn(f"Fuse does without '{name}': {reason}", MemberLeftOutWarning)

    @checked
    def set_reference(self, classifier: Classifier, loader: Loader, *, progress: bool = False) -> Self:
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
                raise NotFittedError(
                    f"the member '{name}' is not fitted. Call Fuse.fit(...) before set_reference(...)."
                )
            if member.fitted_on is not None and member.fitted_on.fingerprint != head.fingerprint:
                raise MismatchError(
                    f"the member '{name}' was fitted on another classifier: fingerprint "
                    f"{member.fitted_on.fingerprint[:12]}, this one's is {head.fingerprint[:12]}. Fit it again."
                )
        scores, sketch = [], ContentSketch()
        batches = classifier.sampled().stream(loader, **reads([self]))
        for activations, _ in track(batches, "reference", loader, shown=progress):
            with torch.no_grad():
                scores.append(self.member_scores(activations))
            sketch.update(activations, None)
        before = dict(self.members_left_out)
        self._take_scale(scores)
        self._warn_of_left_out(before)
        # what the members were fitted on they remember themselves
        self.seen = sketch.hashes.to(scores[0].device)
        self.reference_is_given = True
        self.mark_fitted(head)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self._chooses:  # the state says which members were chosen
            held = {key.removeprefix(prefix).partition(".")[0] for key in state_dict if key.startswith(prefix)}
            if chosen := {name: member for name, member in self._given.items() if name in held}:
                self._modules, self.reason = dict(chosen), self.reason or "these are what the loaded state holds"
        super()._load_from_state_dict(state_dict, prefix, *args)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """The combined p-values, or standardised scores (N,)."""
        if self.rule == "z-sum":
            scores = self.member_scores(activations).to(self.scale)
            return z_sum(scores, self.scale[:, WIDTH], self.scale[:, WIDTH + 1])
        return RULES[self.rule](self.log_p_values(activations))

    def member_scores(self, activations: Activations) -> Float[Tensor, "n m"]:
        """Score of each member (N, M), float32, higher = more in-distribution."""
        return torch.stack([member(activations).float() for _, member in self.members], dim=1)

    def log_p_values(self, activations: Activations) -> Float[Tensor, "n m"]:
        """Logarithm of each member's p-value (N, M)."""
        return log_p_values(self.member_scores(activations).to(self.scale), self.scale[:, :WIDTH])

    def p_values(self, activations: Activations) -> dict[str, Float[Tensor, " n"]]:
        """Each member's p-value (N,), by its name: the smallest is of the member that finds an input strangest.

        On the scale of the reference: for ID inputs uniform in (0, 1) where that was held out, smaller where the
        members were fitted on it.
        """
        columns = self.log_p_values(activations).exp().unbind(1)
        return {name: column for (name, _), column in zip(self.members, columns, strict=True)}

    def _add(self, member: Detector) -> None:
        check_kept(member)
        again = sum(type(known) is type(member) for _, known in self.members)
        self.add_module(f"{member.name}-{again + 1}" if again else member.name, member)


def _check_enough(samples: int) -> None:
    if samples < FEWEST:
        raise InputError(f"Fuse compares its members on at least {FEWEST} ID samples; {samples} were seen.")
