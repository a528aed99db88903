"""NegLabel: class texts against the words that are least like them (Jiang et al., ICLR 2024, Sec. 3)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count, LeftToIt, Positive, Range, Seed, Share
from oodline.data.tensor_formats import SUFFIXES
from oodline.detectors.assumptions import SOFTMAX
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.cosines import class_cosines, class_directions
from oodline.errors import MismatchError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.model.vectors import read_vectors
from oodline.statistics.sources import scaled


class NegLabel(Detector):
    """Log of the share of the class texts in the matches of an image, beside words that name none of the classes.

    `log mean_g sum_c exp(cos(f, t_c) / T) / (sum_c exp(cos(f, t_c) / T) + sum_{w in group g} exp(cos(f, w) / T))`, t_c
    being the text vector of class c (see `MCM`) and w the negative words. Of the candidate words, those farthest from
    the classes are taken: the distance of a word is the `quantile` of `-cos(w, t_c)` over the classes. They are dealt
    at random into groups of one size, and the score is the mean over the groups. Higher = more in-distribution;
    `exp(score)` is the paper's score, and the ranking is the same. Range: (-inf, 0).

    It needs words and no images: `NegLabel(words="words.safetensors").fit(classifier)`. The chosen vectors are its
    state, so a guard file holds them, and the words are not read again.

    Parameters
    ----------
    words : str, Path, Tensor or array (N, D)
        Vectors of candidate words by the text encoder of the classifier; the paper takes the nouns and adjectives of
        WordNet. Or a file that holds this one array (.safetensors, .npz, .npy, .pt).
    keep : float
        Fraction of the candidates to take, in (0, 1]; at least one. The authors' 10,000 are about 0.15 of theirs.
    quantile : float
        In [0, 1]: 0 is the distance to the nearest class, and a small value forgives a few near ones.
    groups : int
        As many groups at most; fewer where there are fewer words. Words that are left over are left out.
    temperature : float
        T > 0; 0.01 in the paper.
    seed : int
        Of the dealing.

    Raises
    ------
    SettingError
        No words are given, or a setting is out of range.
    DataError
        The words cannot be read, or are not vectors.
    MismatchError
        The words have another width than the features.
    HeadError
        The head is not one linear layer.

    Examples
    --------
    >>> from oodline import Classifier
    >>> classifier = Classifier.zero_shot(torch.nn.Flatten(), torch.eye(2, 3))
    >>> detector = NegLabel(words=[[0.0, 0.0, 1.0], [1.0, 0.0, 0.1]], keep=0.5).fit(classifier)
    >>> detector(classifier(torch.tensor([[4.0, 0.0, 0.0], [1.0, 0.0, 1.0]]))).exp()
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """

    name: ClassVar = "neglabel"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper(
        "Negative Label Guided OOD Detection with Pretrained Vision-Language Models", "ICLR 2024", "2403.20078"
    )
    reads_data: ClassVar = False
    is_log: bool = True
    negatives: Fitted[Float[Tensor, "G W D"]]

    def __init__(
        self,
        *,
        words: Annotated[Any, LeftToIt()] = "",
        keep: Annotated[float, Range(0, 1, above=True)] = 0.15,
        quantile: Share = 0.05,
        groups: Count = 100,
        temperature: Positive = 0.01,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        is_file = isinstance(words, str | Path)
        self.words = str(words) if is_file else ""
        if self.words and Path(self.words).suffix not in SUFFIXES:
            raise SettingError(f"`words` must be vectors, or a file of them: {', '.join(SUFFIXES)}; got {words!r}.")
        self._given = None if is_file else read_vectors(words, "words")
        self.keep = keep
        self.quantile = quantile
        self.groups = groups
        self.temperature = temperature
        self.seed = seed

    def estimate(self, head: Head) -> None:
        """Choose the negative words, and deal them into groups."""
        if self._given is None and not self.words:
            raise SettingError(
                "`words` must be vectors of candidate words, or a file of them; got none. Write "
                "NegLabel(words=vectors), or neglabel,words=FILE.safetensors."
            )
        words = read_vectors(self.words, "words") if self._given is None else self._given
        if words.shape[1] != head.num_features:
            raise MismatchError(
                f"`words` must be vectors of {head.num_features} numbers, as the features are; got {words.shape[1]}. "
                "Encode them by the text encoder that made the classes."
            )
        chosen = farthest(words, class_directions(head.linear.weight.detach().cpu()), self.keep, self.quantile)
        groups = min(self.groups, len(chosen))
        size = len(chosen) // groups
        order = torch.randperm(groups * size, generator=torch.Generator().manual_seed(self.seed))
        self.negatives = words[chosen[: groups * size][order]].reshape(groups, size, -1)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log of the mean share of the class texts (N,)."""
        groups, size, _ = self.negatives.shape
        known = (class_cosines(activations) / self.temperature).logsumexp(1, keepdim=True)
        cosines = scaled(activations.features, 1.0) @ scaled(self.negatives.flatten(0, 1), 1.0).T
        others = (cosines / self.temperature).reshape(-1, groups, size).logsumexp(2)
        # log of known / (known + others), exact also where that rounds to 1
        log_shares = -torch.nn.functional.softplus(others - known)
        mean = log_shares.logsumexp(1) - math.log(groups)
        near_one = log_shares.expm1().mean(1).log1p()  # of shares near 1, whose sum would lose what is left
        return torch.where(near_one > -0.5, near_one, mean)


def farthest(words: Float[Tensor, "n d"], classes: Float[Tensor, "c d"], keep: float, quantile: float) -> Tensor:
    """Which words are farthest from the classes, the farthest first; ties in their order.

    Examples
    --------
    >>> farthest(torch.eye(3), torch.eye(2, 3, dtype=torch.float64), keep=0.4, quantile=0.0)
    tensor([2])
    """
    distances = torch.cat(
        [torch.quantile(-(part.double() @ classes.T), quantile, dim=1) for part in torch.split(words, 1024)]
    )
    count = max(1, round(keep * len(words)))
    return distances.argsort(descending=True, stable=True)[:count]
