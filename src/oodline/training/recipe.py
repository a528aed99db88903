"""`Recipe`: a loss, perhaps a head and a maker of outliers, and how the optimiser is set; `RECIPES` by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from oodline._util.spec import parse_reference
from oodline.errors import SettingError, unknown_name
from oodline.training.abet_head import AbeTHead
from oodline.training.ascood_head import ASCOODHead
from oodline.training.auxiliary import Auxiliary
from oodline.training.cross_entropy import CrossEntropy
from oodline.training.energy_clusters import EnergyClusters
from oodline.training.energy_margin import EnergyMargin
from oodline.training.feature_norm_amplification import FeatureNormAmplification
from oodline.training.gaussian import Gaussian
from oodline.training.gradient import Gradient
from oodline.training.gradient_regularised import GradientRegularised
from oodline.training.imbalanced_ood import ImbalancedOOD
from oodline.training.kl_uniform import KLUniform
from oodline.training.logit_norm import LogitNorm
from oodline.training.loss import TrainingLoss
from oodline.training.outlier_exposure import OutlierExposure
from oodline.training.outlier_maker import OutlierMaker
from oodline.training.shuffle import Shuffle
from oodline.training.spatial_contrast import SpatialContrast
from oodline.training.t2f_norm import T2FNorm

Schedule = Literal["cosine", "steps", "constant"]


@dataclass(frozen=True)
class Network:
    """What a loss is made for.

    Parameters
    ----------
    num_features, num_classes : int
        D and C.
    class_counts : sequence of int
        Training samples of each class.
    channels : int
        Of the feature map, 0 where there is none.
    """

    num_features: int
    num_classes: int
    class_counts: Sequence[int]
    channels: int = 0


@dataclass(frozen=True)
class Recipe:
    """A way to fine-tune a classifier.

    Parameters
    ----------
    name, summary : str
        What to call it, and a line about it.
    loss : callable
        From a `Network`, and settings by name, to a `TrainingLoss`.
    head : type, optional
        A `TrainingHead` that takes the place of the network's own.
    outliers : callable, optional
        From an `Auxiliary`, None where there is none, to the `OutlierMaker`.
    needs_auxiliary : bool
        Whether a set of auxiliary outliers must be given.
    reads_map : bool
        Whether the loss reads the feature map.
    optimiser : {"sgd", "adam"}
        SGD with Nesterov momentum 0.9 unless `nesterov` is false, or Adam.
    learning_rate, weight_decay : float
        At the start.
    schedule : {"cosine", "steps", "constant"}
        Of the learning rate: falling to 1e-6 by a half cosine, batch by batch; a tenth after 50, 75 and 90 % of the
        epochs; or as it is.
    settings : mapping of str to Any
        Of the loss, beside its defaults.

    Examples
    --------
    >>> recipe_of("logit-norm,temperature=0.1").loss_for(Network(8, 3, [1, 1, 1])).temperature
    0.1
    """

    name: str
    summary: str
    loss: Callable[..., TrainingLoss]
    head: type[Any] | None = None
    outliers: Callable[[Auxiliary | None], OutlierMaker] | None = None
    needs_auxiliary: bool = False
    reads_map: bool = False
    optimiser: Literal["sgd", "adam"] = "sgd"
    nesterov: bool = True
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    settings: tuple[tuple[str, Any], ...] = ()

    def loss_for(self, network: Network) -> TrainingLoss:
        """The loss for a network.

        Raises
        ------
        SettingError
            The loss has no such setting, or a value is out of range.
        """
        try:
            return self.loss(network, **dict(self.settings))
        except TypeError as error:
            raise SettingError(f"the recipe '{self.name}' does not take these settings: {error}.") from error

    def maker(self, auxiliary: Auxiliary | None) -> OutlierMaker | None:
        """The maker of outliers, where the recipe has one.

        Raises
        ------
        SettingError
            There must be auxiliary outliers, and there are none.
        """
        if self.needs_auxiliary and auxiliary is None:
            raise SettingError(
                f"the recipe '{self.name}' needs `auxiliary`, a data set of outliers that is apart from every set that "
                "is tested on; got None."
            )
        return None if self.outliers is None else self.outliers(auxiliary)


def _auxiliary(auxiliary: Auxiliary | None) -> OutlierMaker:
    assert auxiliary is not None
    return auxiliary


def _clusters(auxiliary: Auxiliary | None) -> OutlierMaker:
    assert auxiliary is not None
    return EnergyClusters(auxiliary)


_AUXILIARY: dict[str, Any] = {"outliers": _auxiliary, "needs_auxiliary": True, "learning_rate": 0.001}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("cross-entropy", "plain cross-entropy", lambda _, **s: CrossEntropy(**s)),
        Recipe("logit-norm", "logits of unit length", lambda _, **s: LogitNorm(**s)),
        Recipe("t2f-norm", "features of unit length", lambda _, **s: T2FNorm(**s), learning_rate=0.001),
        Recipe(
            "ascood",
            "synthesised outliers with shuffled salient pixels, standardised features",
            lambda _, **s: KLUniform(**s),
            ASCOODHead,
            lambda _: Shuffle(),
        ),
        Recipe(
            "ascood-random",
            "the same with random pixels",
            lambda _, **s: KLUniform(**s),
            ASCOODHead,
            lambda _: Shuffle(fraction=0.2, by="random"),
        ),
        Recipe(
            "ascood-gradient",
            "the same with pixels moved along their gradient",
            lambda _, **s: KLUniform(**s),
            ASCOODHead,
            lambda _: Gradient(alpha=0.1),
        ),
        Recipe(
            "ascood-gaussian",
            "the same with pure noise",
            lambda _, **s: KLUniform(**s),
            ASCOODHead,
            lambda _: Gaussian(),
        ),
        Recipe(
            "abet",
            "a cosine head with a learned temperature",
            lambda _, **s: CrossEntropy(**s),
            AbeTHead,
            nesterov=False,
            weight_decay=1e-4,
            learning_rate=0.1,
            schedule="steps",
        ),
        Recipe(
            "alpa",
            "a contrastive loss of feature maps",
            lambda net, **s: SpatialContrast(channels=net.channels, **s),
            reads_map=True,
        ),
        Recipe(
            "outlier-exposure",
            "uniform predictions for auxiliary outliers",
            lambda _, **s: OutlierExposure(**s),
            **_AUXILIARY,
        ),
        Recipe(
            "energy-margin",
            "energies of ID samples and auxiliary outliers apart by margins",
            lambda _, **s: EnergyMargin(**s),
            **_AUXILIARY,
        ),
        Recipe(
            "greg",
            "the same, and a flat energy beyond the margins",
            lambda _, **s: GradientRegularised(**s),
            **_AUXILIARY,
        ),
        Recipe(
            "greg-plus",
            "the same with outliers chosen by energy and cluster",
            lambda _, **s: GradientRegularised(**s),
            **{**_AUXILIARY, "outliers": _clusters},
        ),
        Recipe(
            "rna",
            "longer features for ID samples; for long tails",
            lambda net, **s: FeatureNormAmplification(
                **{"num_features": net.num_features, "class_counts": net.class_counts, **s}
            ),
            optimiser="adam",
            **_AUXILIARY,
        ),
        Recipe(
            "imood",
            "outliers told without blaming rare classes; for long tails",
            lambda net, **s: ImbalancedOOD(**{"num_features": net.num_features, "class_counts": net.class_counts, **s}),
            **_AUXILIARY,
        ),
    )
}
"""What `oodline finetune` offers. Learning rates are those at which papers fine-tune, and 0.01 where they train from
scratch alone; AbeT's is that of its training from scratch, since its head begins anew."""


def recipe_of(given: Recipe | str) -> Recipe:
    """A recipe, or that of a name with settings of its loss: "logit-norm,temperature=0.1".

    Raises
    ------
    UnknownNameError
        There is none of this name.
    """
    if isinstance(given, Recipe):
        return given
    reference = parse_reference(given)
    if reference.name not in RECIPES:
        raise unknown_name("recipe", reference.name, RECIPES)
    return replace(RECIPES[reference.name], settings=tuple(reference.options.items()))
