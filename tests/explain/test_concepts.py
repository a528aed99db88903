"""Words against a loop over images and words, and the edge cases of the selection."""

import numpy as np
import pytest
import torch

from oodline.errors import SettingError
from oodline.explain.concepts import Concepts

WORDS = ["cat", "car", "sea", "sky"]
GENERATOR = torch.Generator().manual_seed(0)
VECTORS = {text: torch.randn(6, generator=GENERATOR) for text in (*(f"a {word}" for word in WORDS), "a")}
IMAGES = torch.randn(5, 6, generator=GENERATOR) + 2 * VECTORS["a sea"]


def test_scores_equal_the_formula_and_words_near_the_best_are_kept():
    concepts = Concepts(WORDS, lambda texts: torch.stack([VECTORS[t] for t in texts]), lambda x: x, template="a {}")

    def cos(a, b):
        return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))

    expected = {
        word: sum(cos(i, VECTORS[f"a {word}"].numpy()) - cos(i, VECTORS["a"].numpy()) for i in IMAGES.numpy())
        for word in WORDS
    }
    np.testing.assert_allclose(concepts.scores(IMAGES), list(expected.values()), rtol=1e-4, atol=1e-5)
    best = max(expected.values())
    kept = sorted((w for w in WORDS if expected[w] > 0.95 * best), key=lambda w: -expected[w])
    assert [concept.word for concept in concepts.name(IMAGES)] == kept == ["sea"]


def test_two_words_that_fit_alike_are_kept_and_none_that_fits_worse_than_no_word():
    concepts = Concepts(["cat", "feline", "car"], torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]), lambda x: x)
    assert [c.word for c in concepts.name(torch.tensor([[1.0, 0.0]]))] == ["cat", "feline"]
    assert concepts.name(torch.tensor([[-1.0, -1.0]])) == ()
    with pytest.raises(SettingError, match="one per word"):
        Concepts(["cat"], torch.eye(2), lambda x: x)
    with pytest.raises(SettingError, match="at least one word"):
        Concepts([], torch.eye(2), lambda x: x)
    with pytest.raises(SettingError, match=r"`image_encoder` must return \(n, 2\)"):
        Concepts(["cat", "car"], torch.eye(2), lambda x: x).scores(torch.ones(3, 4))
    with pytest.raises(SettingError, match=r"must return \(1, 2\) for one text"):
        Concepts(["cat", "car"], lambda texts: torch.eye(2), lambda x: x)
