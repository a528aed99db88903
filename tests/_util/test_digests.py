"""Digests stay what they are: guard files, caches and states of monitors that exist hold them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import oodline as ol
from oodline._util.digests import Digest, digest
from oodline.evaluation.identity import weights_digest
from oodline.model.fingerprint import Fingerprint
from oodline.model.head import HeadInfo
from oodline.scoring import drift
from oodline.scoring.calibration import calibrate
from oodline.scoring.class_calibration import calibrate_by_class
from oodline.scoring.score_collector import fingerprint
from oodline.tuning.data_fingerprint import Fingerprinter


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8 + i)
    return model


def monitored():
    monitor = ol.DriftMonitor(calibrate(torch.arange(99.0)), window=50)
    monitor.begin("a file")
    monitor.update(torch.arange(7.0))
    return monitor.sources[0].sha256


def seen():
    data = Fingerprinter()
    data.see(torch.arange(24.0).reshape(2, 3, 4))
    return data.touched.sha256


WAYS = {
    "head": lambda model: HeadInfo.of(ol.Classifier(model).head).fingerprint,
    "weights": lambda model: weights_digest(model),
    "tensor": lambda model: Fingerprint.of(model).tensors["0.weight"],
    "half": lambda model: Fingerprint.of(model.half()).tensors["0.weight"],
    "detectors": lambda model: fingerprint({"react": ol.ReAct(clip=1.0)}),
    "calibration": lambda model: drift._digest(calibrate(torch.arange(99.0))),
    "by class": lambda model: drift._digest(calibrate_by_class(torch.arange(80.0), torch.arange(80) % 2, 2)),
    "monitor": lambda model: monitored(),
    "data": lambda model: seen(),
}
BEFORE = {
    "head": "c787ce363d7e220b0eda1d42",
    "weights": "e2a6c758b0228a1ce92c9a54",
    "tensor": "3x2:16045f2a686f025c",
    "half": "3x2:16045f2a686f025c",
    "detectors": "9ebe506c08d6d0b7cc0f7711",
    "calibration": "6d45f6f7b8766d17eaa41048",
    "by class": "e6d76291994407020d2ef037",
    "monitor": "329f5ae25dc7eb9fd186b809",
    "data": "0e089204cc3239d71d1f435d",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_digest_is_what_it_was_in_the_files_of_an_earlier_version(model, way):
    assert WAYS[way](model).startswith(BEFORE[way])


def test_contents_are_taken_by_their_bytes_one_after_another():
    values = torch.arange(6.0).reshape(2, 3).T  # not contiguous: by value, row by row
    expected = hashlib.sha256(b"ab" + values.contiguous().numpy().tobytes() + b"c").hexdigest()
    assert digest("a", b"b", values, "c") == digest("ab", values.numpy(), "c") == expected
    assert Digest("ab").add(values).add("c").hex() == expected
    for empty in (torch.ones(0, 3), np.ones((0, 3)), "", b""):
        assert digest(empty) == hashlib.sha256().hexdigest()
    assert digest(torch.tensor(1, dtype=torch.int16)) == digest(bytes([1, 0]))
    assert digest(torch.ones(2).bfloat16()) == digest(bytes([128, 63] * 2))


def test_digests_are_made_in_one_place():
    source = Path(ol.__file__).parent
    assert [p.name for p in source.rglob("*.py") if "hashlib" in p.read_text()] == ["digests.py"]
