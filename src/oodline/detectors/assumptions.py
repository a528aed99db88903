"""What a method supposes of the features it meets, and whether the data it was fitted on bears it out.

A detector declares its assumptions as class data; `oodline.fit` compares them with what the pass measured, and an
`AssumptionWarning` says, with the number, what does not fit. Nothing here looks at OOD data.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from oodline.detectors.parts.neuron_states import neuron_states
from oodline.errors import InputError
from oodline.model.activations import Activations
from oodline.model.head import Head
from oodline.model.no_head import NoHead
from oodline.statistics import ClassChanges, Facts, Reservoir, Statistic
from oodline.statistics.backbone import SIGNED
from oodline.statistics.sources import Source

if TYPE_CHECKING:
    from oodline.detectors.base import Detector


@dataclass(frozen=True, eq=False)
class Measured:
    """What one pass over the training data showed.

    Parameters
    ----------
    facts : Facts
        Samples by class, zeros and negatives.
    sample : Activations
        At most 300 of the samples, with logits as the head gives them.
    watched : mapping of Watching to Statistic
        What assumptions asked for on their own.
    """

    facts: Facts
    sample: Activations
    watched: Mapping[Watching, Statistic] = field(default_factory=dict)

    @classmethod
    def of(cls, statistics: Mapping[Any, Statistic], head: Head) -> Measured | None:
        """From the filled statistics; None where they were not asked for."""
        facts, trial = statistics.get("facts"), statistics.get("trial")
        if not isinstance(facts, Facts) or not isinstance(trial, Reservoir) or facts.empty or trial.empty:
            return None
        if isinstance(head, NoHead):
            return None
        features = trial.rows.to(head.linear.weight.device, torch.float32)
        head = head.to(features)  # in half precision and under autocast, kinds of numbers would be mixed
        sample = Activations(features, head(features), head, torch.arange(len(features)))
        return cls(facts, sample, {key: found for key, found in statistics.items() if isinstance(key, Watching)})

    @property
    def per_class(self) -> float:
        """Median number of samples of a class, by prediction."""
        return float(self.facts.count.double().quantile(0.5))


class Assumption(Protocol):
    """Something that a method supposes."""

    @property
    def words(self) -> str:
        """What it supposes, in a few words, for tables."""
        ...

    def broken(self, detector: Any, measured: Measured) -> str:
        """Say with the number what does not fit; nothing where all does."""
        ...


@runtime_checkable
class Watching(Hashable, Protocol):
    """An assumption about what no sample of features shows, such as feature maps."""

    def statistic(self) -> Statistic:
        """An empty statistic, which the pass fills and `Measured.watched` holds by the assumption."""
        ...


@runtime_checkable
class OfHead(Protocol):
    """An assumption about the classifier's head, which needs no data: where it does not hold, the method is refused."""

    @property
    def words(self) -> str:
        """What it supposes, in a few words, for tables."""
        ...

    def refusal(self, detector: Any, head: Head) -> str:
        """Why the detector cannot be used with this head, and what to take instead; nothing where it can."""
        ...


@dataclass(frozen=True)
class OneLabel:
    """Each sample has one class, which the softmax or the largest logit stands for."""

    why: str
    words: ClassVar[str] = "one class per sample"

    def refusal(self, detector: Any, head: Head) -> str:
        """Refuse a head of labels of which a sample has any number."""
        if head.task == "multiclass":
            return ""
        return (
            f"{type(detector).__name__} supposes one class per sample: {self.why}. The labels of this classifier do "
            "not exclude each other (task='multilabel'). Take joint-energy or max-logit, also as the scorer of a "
            "method that has one (react,scorer=joint-energy), or a method that reads the features alone: knn, "
            "residual, or mahalanobis,by=all."
        )


SOFTMAX = OneLabel("it reads a softmax or log-sum-exp over the classes")
PREDICTED = OneLabel("it reads the one predicted class of each sample")
LABELLED = OneLabel("it is fitted by the one class of each training sample")


@dataclass(frozen=True)
class Rectified:
    """Features lie behind a ReLU: at most one in a hundred is negative."""

    words: ClassVar[str] = "features behind a ReLU"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare the fraction of negative features."""
        fraction = measured.facts.negatives
        if fraction <= SIGNED:
            return ""
        return (
            f"the features are signed, {fraction:.1%} are negative, and it assumes a ReLU (band-energy, nci, gen do "
            "not)"
        )


@dataclass(frozen=True)
class PerClass:
    """Each class has at least `least` samples, a number or the name of the setting that holds it."""

    least: int | str
    purpose: str

    @property
    def words(self) -> str:
        """The number, or the setting that holds it."""
        return f"{self.least} images per class"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare the median over the classes."""
        least = self.least if isinstance(self.least, int) else int(getattr(detector, self.least))
        found = measured.per_class
        return (
            "" if found >= least else f"{found:g} images per class (median), and {self.purpose} needs {least} or more"
        )


@dataclass(frozen=True)
class Neighbours:
    """The k-th neighbour can lie in the sample's own class: k is at most the samples of a class."""

    words: ClassVar[str] = "k images per class"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare k with the median over the classes, or with that of the bank where it is smaller."""
        fraction = min(1.0, detector.bank / measured.facts.samples)
        found, k = fraction * measured.per_class, detector.neighbour(measured.sample)
        if k > max(1.0, found):
            return (
                f"k = {k}, and the bank holds {found:.3g} images per class (median), so that it lies in another class"
            )
        return "" if measured.per_class >= 2 else f"{measured.per_class:g} image per class (median)"


@dataclass(frozen=True)
class MoreThanDimensions:
    """There are at least `times` as many samples as features, as a covariance needs."""

    times: int = 2

    @property
    def words(self) -> str:
        """The number."""
        return f"{self.times} D images"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare N with D."""
        n, width = measured.facts.samples, measured.sample.features.shape[1]
        least = self.times * width
        return "" if n >= least else f"{n} samples for a covariance of {width} features, which needs {least} or more"


@dataclass(frozen=True)
class LeavesMost:
    """What it does to the features leaves most of them, and most predictions, as they are."""

    values: ClassVar[float] = 0.2
    classes: ClassVar[float] = 0.2
    clips: bool = True
    words: ClassVar[str] = "settings that leave most activations and predictions as they are"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Rectify the sample and compare."""
        before = measured.sample
        after = detector.rectify(before)
        cut = float((after.features < before.features).double().mean()) if self.clips else 0.0
        if cut > self.values:
            written = ", ".join(f"{k}={v!r}" for k, v in detector.settings.items() if k in ("clip", "theta"))
            return f"{written} cuts {cut:.0%} of the activations of this network"
        changed = float((after.logits.argmax(1) != before.logits.argmax(1)).double().mean())
        return (
            "" if changed <= self.classes else f"it changes the predicted class of {changed:.0%} of the training images"
        )


@dataclass(frozen=True)
class KeepsClasses:
    """Most predictions stay where the head reads these vectors in place of the features."""

    of: Source
    most: ClassVar[float] = 0.2
    words: ClassVar[str] = "predictions that stay without the leading part of the map"

    def statistic(self) -> Statistic:
        """Count the changes in the pass."""
        return ClassChanges(self.of)

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare the fraction of training images whose class changes."""
        changes = measured.watched.get(self)
        fraction = changes.fraction if isinstance(changes, ClassChanges) else 0.0
        return (
            "" if fraction <= self.most else f"it changes the predicted class of {fraction:.0%} of the training images"
        )


@dataclass(frozen=True)
class GradedStates:
    """The steepness of NAC's sigmoid leaves most neuron states between its ends, where states differ by degree."""

    most: ClassVar[float] = 0.4
    end: ClassVar[float] = 0.01
    words: ClassVar[str] = "graded neuron states"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare the fraction of states at 0 or 1."""
        states = neuron_states(measured.sample, detector.alpha)
        fraction = float(((states < self.end) | (states > 1 - self.end)).double().mean())
        return (
            ""
            if fraction <= self.most
            else f"alpha = {detector.alpha:g} puts {fraction:.0%} of the neuron states at 0 or 1"
        )


@dataclass(frozen=True)
class FewDirections:
    """The principal space is at most half of all dimensions: otherwise the kernel sees each sample alone."""

    most: ClassVar[float] = 0.5
    words: ClassVar[str] = "few principal dimensions"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Compare what is kept with all."""
        total, left_out = detector.left_out.shape
        kept = total - left_out
        if kept <= self.most * total:
            return ""
        return f"explained = {detector.explained:g} takes {kept} of the {total} dimensions that the kernel maps to"


@dataclass(frozen=True)
class Published:
    """All of the formula is published, which `Detector.experimental` denies."""

    words: ClassVar[str] = "what the paper leaves open"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Say what is open."""
        return (
            f"not all of the method is published: {detector.experimental.rstrip('.')}" if detector.experimental else ""
        )


@dataclass(frozen=True)
class TellsApart:
    """It prefers training samples to what is made of two of them, or of many, at least in most pairs.

    Mixed features are the mean of two samples of different classes; uncoupled ones take each feature from another
    sample.

    Parameters
    ----------
    below : float
        How far below another detector it may lie, as a fraction of the pairs; anywhere down to `LEAST` if omitted.
    beside : str
        The other one, which needs no fitting.
    """

    LEAST: ClassVar[float] = 0.6
    NOISE: ClassVar[float] = 0.02
    below: float = 1.0
    beside: str = "msp"
    words: ClassVar[str] = "training images score above mixtures of them"

    def broken(self, detector: Any, measured: Measured) -> str:
        """Try it on both kinds."""
        if detector.needs_network:
            return ""
        from oodline.detectors.catalog import create_detector

        other = create_detector(self.beside if measured.sample.head.task == "multiclass" else "joint-energy")
        mine, theirs = preferences(detector, measured.sample), preferences(other, measured.sample)
        for kind, fraction in mine.items():
            if fraction < theirs[kind] - self.NOISE and (fraction < self.LEAST or fraction < theirs[kind] - self.below):
                return (
                    f"it prefers a training image to {kind} in {fraction:.0%} of the pairs, where "
                    f"{type(other).__name__} does in {theirs[kind]:.0%}"
                )
        return ""


def preferences(detector: Detector, sample: Activations) -> dict[str, float]:
    """In what fraction of the pairs a detector scores a sample above what is made of several, by kind."""
    found = {}
    with torch.no_grad():
        own = detector(sample).double()
        for kind, features in made_of(sample):
            made = detector(Activations(features, sample.head(features), sample.head, sample.index)).double()
            found[kind] = float(_fraction(own, made))
    return found


def made_of(sample: Activations) -> Iterator[tuple[str, Tensor]]:
    """Features that no single sample showed, the same for all detectors."""
    generator = torch.Generator().manual_seed(0)
    features, predicted = sample.features, sample.logits.argmax(1).cpu()
    other = (predicted[:, None] != predicted).double()
    if bool((other.sum(1) > 0).all()):
        partner = torch.multinomial(other, 1, generator=generator).flatten()
        yield "the mean of two of different classes", (features + features[partner.to(features.device)]) / 2
    order = torch.rand(features.shape, generator=generator).argsort(0).to(features.device)
    yield "features drawn from many", features.gather(0, order)


def _fraction(own: Tensor, made: Tensor) -> Tensor:
    difference = own[:, None] - made
    return (difference > 0).double().mean() + 0.5 * (difference == 0).double().mean()


def broken_assumptions(detector: Detector, measured: Measured) -> Iterator[tuple[str, str]]:
    """The detector's class, or that of a scorer in it, with the sentence of each assumption that does not hold."""
    for assumption in detector.assumed_of_data:
        try:
            if sentence := assumption.broken(detector, measured):
                yield type(detector).__name__, sentence
                break  # the first says why; the others would follow from it
        except InputError:
            continue  # scores that this sample cannot be given say so where they are asked for
    scorer = getattr(detector, "scorer", None)
    if scorer is not None:
        yield from broken_assumptions(scorer, measured)
