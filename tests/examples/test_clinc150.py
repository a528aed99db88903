"""The text example: intents and out-of-scope queries, small; what needs images says so."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.real

FILE = Path(__file__).parents[2] / "examples" / "clinc150.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("clinc150", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small(example, shared, tmp_path_factory):
    """The file with the first twelve intents, and its path."""
    document = json.loads((shared / "data" / "text" / "clinc150.json").read_text())
    kept = sorted({intent for _, intent in document["train"]})[:12]
    for split in ("train", "val", "test"):
        document[split] = [row for row in document[split] if row[1] in kept]
    path = tmp_path_factory.mktemp("clinc") / "small.json"
    path.write_text(json.dumps(document))
    return path


def run(example, capsys, path, *more):
    torch.manual_seed(123)  # the example's own seed must be what decides
    torch.rand(3)
    arguments = ["--data", str(path), "--epochs", "4", "--json"]
    try:
        example.app([*arguments, *more])
    except SystemExit as stop:
        assert stop.code in (0, None)
    return json.loads(capsys.readouterr().out)


def test_out_of_scope_queries_are_told_apart_and_what_needs_images_says_so(example, small, capsys):
    chosen = [
        "line,p_a=0.1,p_w=0.1,clip=90%",
        "msp",
        "energy",
        "mahalanobis",
        "knn",
        "cadref",
        "odin",
        "nap",
        "rankfeat",
    ]
    found = run(example, capsys, small, *(part for name in chosen for part in ("-d", name)))
    assert found["accuracy"] > 0.9
    auroc = {row["detector"]: row["auroc"] for row in found["rows"]}
    assert set(auroc) == {"line", "msp", "energy", "mahalanobis", "knn", "cadref"}
    assert min(auroc.values()) > 0.8
    assert found["detector"] == "line"
    assert found["flagged"]["in scope"] < 0.15 < 0.4 < found["flagged"]["out of scope"]
    assert set(found["refused"]) == {"odin", "nap", "rankfeat"}
    for name in ("nap", "rankfeat"):
        assert found["refused"][name].startswith("no feature map (N, K, H, W) was found in IntentClassifier.")
    assert found["refused"]["odin"].endswith("such as tokens and their mask.")


def test_the_seed_decides(example, small, capsys):
    one, again, other = (
        run(example, capsys, small, "-d", "line,clip=90%", "--intents", "6", "--seed", seed) for seed in ("0", "0", "1")
    )
    assert one["rows"] == again["rows"]
    assert one["rows"] != other["rows"]


def test_a_sparse_vector_gives_what_the_dense_one_would(example):
    import numpy as np
    import scipy.sparse

    random = np.random.default_rng(0)
    dense = random.random((5, 30)) * (random.random((5, 30)) < 0.3)
    dense[3] = 0  # a query of unknown words
    model = example.IntentClassifier(30, 8, 3).eval()
    [batch] = example.Queries(scipy.sparse.csr_matrix(dense), None)
    found = model(**batch)
    hidden = torch.relu(torch.tensor(dense).float() @ model.terms.weight[1:] + model.bias)
    torch.testing.assert_close(found, model.head(hidden))
