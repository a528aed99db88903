"""Words for neurons: those that a text-image encoder finds in the images that excite a neuron most (WWW, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline.errors import SettingError

KEPT = 0.95
"""Words are kept that score more than this share of the best one."""


@dataclass(frozen=True)
class Concept:
    """A word for a neuron, and its score: higher fits better."""

    word: str
    score: float


class Concepts:
    """Words, with which images that excite a neuron are described, by any encoder of texts and images.

    The score of a word is `sum_i cos(image_i, text of the word) - cos(image_i, text without a word)` over the images.
    Words are kept that score more than 0.95 of the best; none, where the best is not above 0 (adaptive selection).

    Parameters
    ----------
    words : sequence of str
        The vocabulary.
    text_vectors : callable or Tensor (V, E)
        From texts to vectors (V, E), such as CLIP's text encoder; or the vectors of the words.
    image_encoder : callable
        From images, of whatever kind it takes, to vectors (n, E) of the same space.
    template : str
        The text of a word, with `{}` in its place; what is left without the word is what scores are compared with. For
        vectors that are given, they are compared with 0.

    Raises
    ------
    SettingError
        There is no word, the template has no place for one, or there is another number of vectors.

    Examples
    --------
    >>> concepts = Concepts(["cat", "car"], torch.eye(2), lambda images: images)
    >>> concepts.name(torch.tensor([[1.0, 0.1], [0.9, 0.2]]))[0].word
    'cat'
    """

    def __init__(
        self,
        words: Sequence[str],
        text_vectors: Callable[[list[str]], Tensor] | Tensor,
        image_encoder: Callable[[Any], Tensor],
        template: str = "A photo of a {}",
    ) -> None:
        if not words or "{}" not in template:
            raise SettingError("`words` must hold at least one word, and `template` must have {} in its place.")
        self.words, self.image_encoder = tuple(words), image_encoder
        if not callable(text_vectors):
            self.text = torch.as_tensor(text_vectors)
            self.empty = torch.zeros_like(self.text[:1])
        else:
            self.text = torch.as_tensor(text_vectors([template.format(word) for word in words]))
            self.empty = torch.as_tensor(text_vectors([template.format("").strip()]))
        if self.text.ndim != 2 or len(self.text) != len(words):
            raise SettingError(
                f"`text_vectors` must be ({len(words)}, E), one per word; got shape {tuple(self.text.shape)}."
            )
        if self.empty.shape != (1, self.text.shape[1]):
            raise SettingError(
                f"`text_vectors` must return (1, {self.text.shape[1]}) for one text; got {tuple(self.empty.shape)}."
            )

    def scores(self, images: Any) -> Float[Tensor, " v"]:
        """The score of each word for these images (V,).

        Raises
        ------
        SettingError
            The image encoder does not give vectors (n, E) of the length of the texts'.
        """
        seen = torch.as_tensor(self.image_encoder(images)).float()
        if seen.ndim != 2 or seen.shape[1] != self.text.shape[1]:
            raise SettingError(
                f"`image_encoder` must return (n, {self.text.shape[1]}), one vector per image, as long as those of "
                f"texts; got shape {tuple(seen.shape)}."
            )
        seen = nn.functional.normalize(seen, dim=1)
        text, empty = (nn.functional.normalize(vectors.float(), dim=1) for vectors in (self.text, self.empty))
        return (seen @ text.T - seen @ empty.T).sum(0)

    def name(self, images: Any) -> tuple[Concept, ...]:
        """The words that are kept for these images, the best first; none where no word fits better than none.

        Parameters
        ----------
        images
            The images that excite a neuron most, such as 40 of them, as the encoder takes them.
        """
        scores = self.scores(images)
        best = float(scores.max())
        if best <= 0:
            return ()
        order = scores.argsort(descending=True, stable=True).tolist()
        return tuple(Concept(self.words[v], float(scores[v])) for v in order if float(scores[v]) > KEPT * best)
