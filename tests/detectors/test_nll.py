"""Log-likelihood of the next token against a loop in NumPy, and the contract on a language model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodline as ol
from oodline.errors import InputError
from oodline.testing import toy_problem

WORDS = 7


def reference(logits: Tensor, tokens: Tensor) -> Tensor:
    found = []
    for row, token in zip(logits.double().numpy(), tokens.tolist(), strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        found.append(float(np.log(p[token])))
    return torch.tensor(found, dtype=torch.float32)


@pytest.fixture(scope="module")
def classifier() -> ol.RowClassifier:
    torch.manual_seed(0)
    return ol.RowClassifier(
        nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)), ol.Tokens(predicts="next", judged="mean")
    )


def texts(seed: int, n: int = 6) -> Tensor:
    return torch.randint(0, WORDS, (n, 10), generator=torch.Generator().manual_seed(seed))


def test_it_equals_the_formula_and_the_loss_of_a_language_model(classifier: ol.RowClassifier) -> None:
    batch = texts(1)
    activations = classifier(batch)
    scores = ol.NLL()(activations)
    assert torch.allclose(scores, reference(activations.logits, batch[:, 1:].flatten()), atol=1e-5)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(classifier.model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    assert torch.isclose(-ol.score(ol.NLL(), classifier, batch)["nll"].mean().float(), loss, atol=1e-6)


def test_certainty_still_differs_from_near_certainty(classifier: ol.RowClassifier) -> None:
    activations = classifier(torch.tensor([[0, 0, 0, 0]]))
    logits = torch.zeros(3, WORDS)
    logits[:, 0] = torch.tensor([30.0, 60.0, -200.0])
    scores = ol.NLL()(activations.replace(logits=logits))
    assert torch.allclose(scores, torch.tensor([-6 * np.exp(-30.0), -6 * np.exp(-60.0), -200 - np.log(6)]).float())


def test_a_row_is_scored_by_itself_and_rows_in_parts_as_together(classifier: ol.RowClassifier, monkeypatch) -> None:
    activations = classifier(texts(2))
    whole = ol.NLL()(activations)
    monkeypatch.setattr("oodline.detectors.base.MOST_VALUES", 5 * WORDS)  # five rows at a time
    sizes = [len(part) for part in activations.parts(5)]
    assert sizes == [5] * 10 + [4]
    assert torch.equal(ol.NLL().score_rows(activations), whole)


def test_what_predicts_no_next_token_is_refused() -> None:
    classifier, loader = toy_problem()
    with pytest.raises(InputError, match="only a language model predicts"):
        ol.fit([ol.NLL()], classifier, loader)
    with pytest.raises(InputError, match="only a language model predicts"):
        ol.NLL()(classifier(loader[0][0]))
    own = ol.RowClassifier(nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 3)), "tokens")
    with pytest.raises(InputError, match="only a language model predicts"):
        ol.score(ol.NLL(), own, texts(1))
    given, _ = ol.from_features(torch.ones(4, 8), logits=torch.ones(4, 3))
    with pytest.raises(InputError, match="needs the token that came next"):
        ol.score(ol.NLL(), given, [{"features": torch.ones(4, 8), "logits": torch.ones(4, 3)}])
