"""A file that an earlier oodline wrote is read, and judges as it did."""

import json
from pathlib import Path

import pytest
import torch

import oodline as ol
from oodline.guard.artifact import read_artifact
from oodline.testing import toy_loader, toy_problem

FILES = Path(__file__).parents[1] / "files"
VERDICTS = json.loads((FILES / "format2.json").read_text())


@pytest.mark.parametrize("name", VERDICTS)
def test_a_file_of_format_2_judges_as_it_did(name):
    classifier, _ = toy_problem()
    guard = ol.Guard.load(FILES / "format2.safetensors", classifier, name)
    rows = guard(torch.cat([toy_loader(seed=2)[0][0][:8], torch.zeros(2, 4)])).rows()
    assert len(rows) == len(VERDICTS[name]) == 10
    for now, then in zip(rows, VERDICTS[name], strict=True):
        assert {k: now[k] for k in ("label", "class_name", "is_ood")} == {
            k: then[k] for k in ("label", "class_name", "is_ood")
        }
        assert [now[k] for k in ("score", "threshold", "p_value")] == pytest.approx(
            [then[k] for k in ("score", "threshold", "p_value")], rel=1e-5
        )


def test_what_it_does_not_hold_is_missing_and_what_it_holds_is_there():
    artifact = read_artifact(FILES / "format2.safetensors")
    assert (artifact.weights, artifact.probe, artifact.other_weights) == (None, None, None)
    assert artifact.class_names == ("a", "b", "c")
    assert artifact.preprocessing.crop == 8
    assert artifact.fit.samples == 60
    shapes = {name: tuple(value.shape) for name, value in artifact.neurons.state_dict().items()}
    assert shapes == {"mean": (3, 16), "spread": (3, 16), "top_values": (2, 16), "top_index": (2, 16)}
