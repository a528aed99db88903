"""The methods that oodline and another library both have: how each is built, and why their scores differ.

Every pair is built on the same split network, `Sequential(encoder, head)`, and its peer is used by the peer's own
end-to-end interface: fit on a loader, score a batch of inputs. `same` turns the peer's outlier scores into the units
and the direction of ours, which changes no order.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """A split network and how much it is fitted on."""

    model: nn.Sequential
    n_fit: int

    @property
    def encoder(self) -> nn.Module:
        """From inputs to features (N, D)."""
        return self.model[0]

    @property
    def head(self) -> nn.Linear:
        """From features to logits."""
        return self.model[1]

    @property
    def maps(self) -> Callable[[Tensor], Tensor]:
        """The features as maps of one pixel, for methods that ask for maps."""
        return lambda x: self.encoder(x)[:, :, None, None]

    @property
    def map_head(self) -> Callable[[Tensor], Tensor]:
        """From such maps to logits."""
        return lambda maps: self.head(maps.flatten(1))


@dataclass(frozen=True)
class Pair:
    """One method in both libraries."""

    ours: str
    """As `create_detector` takes it."""
    build: Callable[[Any, Scene], Any]
    """From the peer's module of detectors and a scene to its detector."""
    same: Callable[[Values, Scene], Values]
    """From the peer's outlier scores to our scores."""
    why: str
    """What makes the scores differ."""
    inputs: bool = False
    """Whether it differentiates the network with respect to the input, and so cannot be tried on features alone."""


def minus(scores: Values, scene: Scene) -> Values:
    return -scores


def log_of(scores: Values, scene: Scene) -> Values:
    with np.errstate(divide="ignore"):
        return np.log(-scores)


ROUNDING = "float32 rounding"
PYTORCH_OOD = (
    Pair("msp", lambda d, s: d.MaxSoftmax(s.model), log_of, "theirs is p, which rounds to 1; ours is log p"),
    Pair("max-logit", lambda d, s: d.MaxLogit(s.model), minus, "none"),
    Pair("energy", lambda d, s: d.EnergyBased(s.model), minus, ROUNDING),
    Pair("entropy", lambda d, s: d.Entropy(s.model), minus, "theirs cancels in float32 near certainty"),
    Pair(
        "gen",
        lambda d, s: d.GEN(s.model, gamma=0.1),
        lambda x, s: -s.head.out_features * x,
        "theirs clamps p to [1e-7, 1 - 1e-7], and (1e-7)^0.1 is 0.2",
    ),
    Pair(
        "temperature-scaling",
        lambda d, s: d.TemperatureScaling(s.model),
        log_of,
        "all fit images are classified right, so the best T is 0; theirs stops after 50 steps",
    ),
    Pair("react", lambda d, s: d.ReAct(s.encoder, s.head, percentile=0.9), minus, "our clip is known to 0.05 %"),
    Pair(
        "dice",
        lambda d, s: d.DICE(s.encoder, s.head.weight.detach(), s.head.bias.detach(), p=0.9),
        minus,
        ROUNDING,
    ),
    Pair("ash-s", lambda d, s: d.ASH(s.maps, s.map_head, "ash-s", percentile=0.9), minus, ROUNDING),
    Pair("ash-p,p=0.6", lambda d, s: d.ASH(s.maps, s.map_head, "ash-p", percentile=0.6), minus, ROUNDING),
    Pair("ash-b,p=0.65", lambda d, s: d.ASH(s.maps, s.map_head, "ash-b", percentile=0.65), minus, ROUNDING),
    Pair("scale,p=0.85", lambda d, s: d.SCALE(s.maps, s.map_head, percentile=0.85), minus, ROUNDING),
    Pair(
        "mahalanobis",
        lambda d, s: d.Mahalanobis(s.encoder),
        lambda x, s: -2 * s.n_fit * x,
        "theirs adds 1e-6 to a scatter whose smallest eigenvalue is 6e-7",
    ),
    Pair(
        "relative-mahalanobis",
        lambda d, s: d.RMD(s.encoder),
        lambda x, s: -s.n_fit * x,
        "as mahalanobis, twice",
    ),
    Pair("knn", lambda d, s: d.KNN(s.encoder, k=50), minus, ROUNDING),
    Pair(
        "vim",
        lambda d, s: d.ViM(s.encoder, s.head.in_features // 2, s.head.weight.detach(), s.head.bias.detach()),
        minus,
        "theirs in float32: residuals of 1e-2 times an alpha of 1e3",
    ),
    Pair("she", lambda d, s: d.SHE(s.encoder, s.head), minus, ROUNDING),
    Pair("kl-matching", lambda d, s: d.KLMatching(s.model), minus, ROUNDING),
    Pair(
        "gradnorm",
        lambda d, s: d.GradNorm(s.model, param_filter=lambda name: name == "1.weight"),
        minus,
        "ours is in closed form, theirs by autograd",
    ),
    Pair("nnguide", lambda d, s: d.NNGuide(s.encoder, s.head, k=10), minus, ROUNDING),
    Pair("fdbd", lambda d, s: d.fDBD(s.encoder, s.head), minus, ROUNDING),
    Pair("nci,alpha=0.001", lambda d, s: d.NCI(s.encoder, s.head, alpha=0.001), minus, ROUNDING),
    Pair("nac", lambda d, s: d.NACUE(s.model, [s.encoder]), minus, "bins at other edges", inputs=True),
    Pair(
        "gmm,covariance=full",
        lambda d, s: d.GMM(s.encoder, reg=1e-3),
        minus,
        "theirs in float64, ours in float32 once whitened",
    ),
    Pair("odin", lambda d, s: d.ODIN(s.model, eps=0.0014, temperature=1000.0), log_of, ROUNDING, inputs=True),
)
"""pytorch-ood has no LINe, and this version no CADRef."""

OODEEL = (
    Pair("msp", lambda d, s: d.MLS(output_activation="softmax"), log_of, "theirs is p, which rounds to 1"),
    Pair("max-logit", lambda d, s: d.MLS(), minus, "none"),
    Pair("energy", lambda d, s: d.Energy(), minus, ROUNDING),
    Pair("entropy", lambda d, s: d.Entropy(), minus, "theirs cancels in float32 near certainty"),
    Pair("gen", lambda d, s: d.GEN(gamma=0.1, k=100), minus, "theirs loses 1 - p near certainty"),
    Pair("react", lambda d, s: d.Energy(use_react=True, react_quantile=0.9), minus, "our clip is known to 0.05 %"),
    Pair(
        "ash-s",
        lambda d, s: d.Energy(use_ash=True, ash_percentile=0.9),
        minus,
        "their percentile lies between two activations",
    ),
    Pair(
        "scale,p=0.85",
        lambda d, s: d.Energy(use_scale=True, scale_percentile=0.85),
        minus,
        "their percentile lies between two activations",
    ),
    Pair(
        "mahalanobis",
        lambda d, s: d.Mahalanobis(eps=0.0),
        lambda x, s: -2 * x,
        "their float32 pseudo-inverse drops all directions below 4e-5 of the largest",
    ),
    Pair("relative-mahalanobis", lambda d, s: d.RMDS(eps=0.0), lambda x, s: -2 * x, "as mahalanobis, twice"),
    Pair("knn", lambda d, s: d.DKNN(nearest=50), lambda x, s: -np.sqrt(np.maximum(x, 0)), "theirs is squared"),
    Pair(
        "vim",
        lambda d, s: d.VIM(princ_dims=s.head.in_features // 2),
        minus,
        "their origin is the mean of the features, not -pinv(W) b; float32",
    ),
    Pair(
        "she",
        lambda d, s: d.SHE(eps=0.0),
        lambda x, s: -s.head.in_features * x,
        "theirs takes the largest pattern, not that of the predicted class",
    ),
    Pair(
        "odin",
        lambda d, s: d.ODIN(temperature=1000.0, eps=0.0014),
        log_of,
        "float32 softmax at T = 1000",
        inputs=True,
    ),
)


class Library:
    """A peer: its detectors, and its own way to fit and to score."""

    name = "pytorch-ood"
    pairs = PYTORCH_OOD

    def __init__(self) -> None:
        logging.getLogger("pytorch_ood").setLevel(logging.ERROR)
        self.detectors = importlib.import_module("pytorch_ood.detector")
        self.version = importlib.import_module("pytorch_ood").__version__

    def fit(self, detector: Any, scene: Scene, loader: Iterable[Any]) -> None:
        """Fit by the peer's own interface."""
        detector.fit(loader)

    def differentiates(self, detector: Any) -> bool:
        """Whether it needs gradients to score."""
        return issubclass(type(detector), importlib.import_module("pytorch_ood.api").GradientDetector)

    def score(self, detector: Any, loader: Iterable[Any]) -> Values:
        """Outlier scores (N,)."""
        parts = []
        for inputs, *_ in loader:
            with torch.set_grad_enabled(self.differentiates(detector)):
                parts.append(detector.predict(inputs).detach())
        return torch.cat(parts).double().numpy()


class Oodeel(Library):
    """oodeel: `fit(model, data)` and `score(data)`; it leaves hooks in the model, so each detector gets a copy."""

    name = "oodeel"
    pairs = OODEEL

    def __init__(self) -> None:
        self.detectors = importlib.import_module("oodeel.methods")
        self.version = importlib.metadata.version("oodeel")

    def fit(self, detector: Any, scene: Scene, loader: Iterable[Any]) -> None:
        """Fit by the peer's own interface; methods that need no data get none."""
        layers = {"feature_layers_id": ["0"]} if detector.requires_internal_features else {}
        data = loader if detector.requires_to_fit_dataset or detector.use_react else None
        detector.fit(copy.deepcopy(scene.model), fit_dataset=data, head_layer_id="1", **layers)

    def score(self, detector: Any, loader: Iterable[Any]) -> Values:
        """Outlier scores (N,)."""
        return np.asarray(detector.score(loader)[0], dtype=np.float64)


LIBRARIES = {"pytorch-ood": Library, "oodeel": Oodeel}


def open_libraries(folder: Path | None) -> tuple[list[Library], dict[str, str]]:
    """The peers that run here, and why others do not."""
    if folder is not None:
        sys.path.append(str(folder))  # behind what is installed: only oodeel itself comes from there
    found, absent = [], {}
    for name, kind in LIBRARIES.items():
        try:
            found.append(kind())
        except ImportError as error:
            absent[name] = str(error)
    return found, absent
