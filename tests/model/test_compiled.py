"""A compiled pass gives what the model gives, for batches of any size; one that cannot be compiled runs as it is."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.testing import toy_network, toy_problem


class Jumpy(nn.Module):
    """Looks at values, which no graph can."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x if float(x.sum()) > 1e9 else x.relu())


def test_a_compiled_pass_is_the_pass(recwarn):
    model, images = toy_network(), torch.rand(6, 3, 8, 8)
    plain, compiled = ol.Classifier(model), ol.Classifier(model, compile="eager")
    for n in (6, 6, 3, 1, 1, 5):
        found, expected = (
            compiled(images[:n], needs=ol.Needs.FEATURE_MAP),
            plain(images[:n], needs=ol.Needs.FEATURE_MAP),
        )
        for name in ("features", "logits", "feature_map"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
        assert not found.logits.requires_grad
    assert len(compiled._passes._graphs) == 2 and compiled._passes.failure == "" and not recwarn
    with torch.no_grad():
        model[-1].weight.mul_(2)
    torch.testing.assert_close(compiled(images).logits, plain(images).logits, rtol=0, atol=0)
    assert pickle.loads(pickle.dumps(compiled._passes))._graphs == {}


@pytest.mark.parametrize(("model", "backend"), [(Jumpy(), "eager"), (toy_problem()[0].model, "no-such-backend")])
def test_what_cannot_be_compiled_runs_as_it_is(model, backend):
    compiled, inputs = ol.Classifier(model, compile=backend), toy_problem()[1][0][0]
    compiled(inputs)  # the first pass shows which the head is
    with pytest.warns(UserWarning, match="cannot be compiled, and runs as it is"):
        found = compiled(inputs)
    torch.testing.assert_close(found.logits, ol.Classifier(model)(inputs).logits, rtol=0, atol=0)
    compiled(inputs)  # warns once
