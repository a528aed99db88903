"""Every classifier of timm, torchvision and transformers that is run here has a head, or a sentence says why not."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_LINEAR_HEAD = ("volo_", "squeezenet")
"""The largest of an auxiliary head; a ReLU between the last layer and pooling."""


@pytest.fixture
def heads(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("benchmarks.accuracy.heads")
    for name in ("benchmarks.accuracy.heads", "benchmarks.accuracy.heads_models"):
        sys.modules.pop(name, None)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_every_head_is_taken_or_refused_for_a_reason(heads, library, tmp_path):
    heads.run(library, output=tmp_path / "heads.jsonl")
    rows = heads.rows_of([tmp_path / "heads.jsonl"])
    tried = [row for row in rows if row["outcome"] in ("taken", "refused", "crashed", "wrong")]
    assert [row for row in tried if row["outcome"] in ("crashed", "wrong")] == []
    refused = [row["name"] for row in tried if row["outcome"] == "refused"]
    assert [name for name in refused if not name.startswith(NO_LINEAR_HEAD)] == []
    assert len(tried) > {"timm": 950, "torchvision": 80, "transformers": 100}[library]
