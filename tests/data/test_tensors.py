"""Tensors as a data set: one entry per sample, read by runs, known by content, and refused with the reason."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from oodline import Energy, score
from oodline.data import TensorFile, TensorLoader, open_images, open_loader
from oodline.data.opening import is_tensors
from oodline.errors import DataError, InputError
from oodline.evaluation.benchmark import run_protocol
from oodline.evaluation.cache import CachedClassifier
from oodline.evaluation.protocol import parse_protocol
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.testing import toy_network, toy_problem

CLASSIFIER, BATCHES = toy_problem()
INPUTS, LABELS = (torch.cat(column) for column in zip(*BATCHES, strict=True))


def written(path, metadata=None, **tensors):
    save_file(tensors, path, metadata)
    return path


@pytest.fixture
def toys(tmp_path):
    return written(tmp_path / "toys.safetensors", {"class_names": '["a", "b", "c"]'}, inputs=INPUTS, labels=LABELS)


def test_one_tensor_is_the_argument_and_scores_are_those_of_the_tensor_itself(toys):
    loader = open_loader(toys, Preprocessing(), batch_size=25, label_offset=1)
    assert isinstance(loader, TensorLoader)
    assert (len(loader), loader.num_samples, loader.source.class_names) == (3, 60, ("a", "b", "c"))
    assert loader.name(7) == "toys.safetensors[7]"
    first, *_, last = loader
    assert torch.equal(first.inputs, INPUTS[:25]) and torch.equal(first.labels, LABELS[:25] + 1)
    assert torch.equal(last.index, torch.arange(50, 60))
    expected = score(Energy(), CLASSIFIER, INPUTS.split(25))["energy"]
    torch.testing.assert_close(score(Energy(), CLASSIFIER, loader)["energy"], expected, rtol=0, atol=0)


def test_a_sample_without_a_label_keeps_none_whatever_is_done_to_labels(tmp_path):
    metadata = {"class_names": '["a", "b"]'}
    path = written(tmp_path / "a.safetensors", metadata, inputs=torch.zeros(3, 4), labels=torch.tensor([1, -1, 0]))
    assert next(iter(TensorLoader(TensorFile(path), label_offset=1))).labels.tolist() == [2, -1, 1]
    assert next(iter(open_loader(path, None, class_names=["b", "a"]))).labels.tolist() == [0, -1, 1]
    written(path, metadata, inputs=torch.zeros(3, 4), labels=torch.tensor([1, 2, 0]))
    with pytest.raises(DataError, match=r"a label of .* is 2, but the data names only 2 classes"):
        next(iter(open_loader(path, None, class_names=["b", "a"])))


def test_several_tensors_are_arguments_by_name(tmp_path):
    path = written(tmp_path / "text.safetensors", tokens=torch.arange(6).view(3, 2), mask=torch.ones(3, 2).bool())
    [batch] = TensorLoader(TensorFile(path))
    assert set(batch.inputs) == {"tokens", "mask"} and batch.labels is None
    assert batch.inputs["tokens"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_shares_and_other_cuts_keep_the_positions(toys):
    whole = TensorLoader(TensorFile(toys), 7, limit=45)
    assert whole.rows == range(45)
    shares = [batch.index for i in range(3) for batch in whole.part(i, 3)]
    assert torch.equal(torch.cat(shares), torch.arange(45))
    cut = [batch.index.tolist() for batch in whole.over([range(3, 5), range(40, 41)])]
    assert cut == [[3, 4], [40]]
    assert len(whole) == 7


def test_a_cache_knows_it_by_content(toys, tmp_path):
    loader = TensorLoader(TensorFile(toys), 25)
    first = CachedClassifier(CLASSIFIER, tmp_path / "cache")
    scores = score(Energy(), first, loader)["energy"]
    copied = written(tmp_path / "copy.safetensors", {"class_names": '["a", "b", "c"]'}, inputs=INPUTS, labels=LABELS)
    again = CachedClassifier(CLASSIFIER, tmp_path / "cache")
    assert torch.equal(score(Energy(), again, TensorLoader(TensorFile(copied), 25))["energy"], scores)
    assert (first.computed, again.computed) == (60, 0)
    other = written(tmp_path / "other.safetensors", inputs=INPUTS + 1, labels=LABELS)
    for changed in (TensorLoader(TensorFile(other), 25), TensorLoader(TensorFile(toys), 25, limit=50)):
        assert changed.identity() != loader.identity()


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"labels": torch.arange(3)}, r"holds no input: a tensor with one entry per sample is needed"),
        ({"a": torch.ones(3, 2), "b": torch.ones(4)}, r"must have one entry per sample.*got a \(3, 2\), b \(4,\)"),
        ({"a": torch.ones(3), "labels": torch.arange(2)}, r"must have one entry per sample"),
        ({"a": torch.ones(0, 2)}, r"and at least one sample; got a \(0, 2\)"),
        ({"a": torch.tensor(1.0)}, r"and at least one sample; got a \(\)"),
        ({"a": torch.ones(3), "labels": torch.ones(3)}, r"`labels` of .* must be integers \(N,\).*; got F32 \(3,\)"),
        ({"a": torch.ones(3), "labels": torch.ones(3, 1).long()}, r"got I64 \(3, 1\)"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, tensors, sentence):
    with pytest.raises(DataError, match=sentence):
        TensorFile(written(tmp_path / "bad.safetensors", **tensors))


def test_damage_is_refused_whenever_it_comes(toys, tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*none\.safetensors"):
        open_loader(tmp_path / "none.safetensors", Preprocessing())
    loader = TensorLoader(TensorFile(toys))
    content = toys.read_bytes()
    toys.write_bytes(content[:-100])
    with pytest.raises(DataError, match="can no longer be read"):
        list(loader)
    with pytest.raises(DataError, match="not a safetensors file of samples, or is damaged"):
        TensorFile(toys)
    for changed in ({"labels": LABELS.float()}, {"inputs": INPUTS[:30]}, {"labels": LABELS[:30]}):
        loader = TensorLoader(TensorFile(written(toys, inputs=INPUTS, labels=LABELS)))
        written(toys, **{"inputs": INPUTS, "labels": LABELS, **changed})
        with pytest.raises(DataError, match="has changed since it was opened"):
            list(loader)
    for names in ("[1, 2]", '"a"', "[", '{"a": 1}', "[" * 100_000):
        with pytest.raises(DataError, match="not a safetensors file of samples, or is damaged"):
            TensorFile(written(toys, {"class_names": names}, inputs=INPUTS))
    for wrong in ({"batch_size": 0}, {"limit": 0}):
        with pytest.raises(InputError, match="must be at least 1"):
            TensorLoader(TensorFile(written(toys, inputs=INPUTS)), **wrong)


def test_where_images_are_needed_tensors_are_refused(toys, tmp_path):
    with pytest.raises(DataError, match="holds tensors, and images are needed here"):
        open_images(toys)
    assert is_tensors("a/b.safetensors") and not is_tensors("list:b.safetensors") and not is_tensors("b.parquet")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_loader(tmp_path / "images", Preprocessing())


def test_a_benchmark_reads_tensors_as_it_reads_images(tmp_path, recwarn):
    sets = {}
    for seed, name in enumerate(("train", "test", "noise")):
        inputs = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        sets[name] = str(written(tmp_path / f"{name}.safetensors", inputs=inputs, labels=torch.arange(12) % 3))
    document = {
        "classifier": {"model": "python:oodline.testing:toy_network"},
        "fit": {"data": sets["train"]},
        "test": {"data": sets["test"]},
        "ood": [{"data": sets["noise"], "group": "far"}],
        "detectors": ["energy", "knn,k=5"],
        "batch_size": 4,
    }
    run = run_protocol(parse_protocol(document), tmp_path / "run", cache=tmp_path / "cache", device="cpu")
    again = run_protocol(parse_protocol(document), tmp_path / "again", cache=tmp_path / "cache", device="cpu")
    assert [s.cached for s in again.record.sets] == [True] * 3
    assert [s.samples for s in run.record.sets] == [12] * 3
    assert run.scores("noise")["energy"].tolist() == again.scores("noise")["energy"].tolist()
    logits = toy_network()(TensorFile(sets["noise"]).read(0, 12)[0])
    assert run.scores("noise")["energy"].tolist() == pytest.approx(logits.logsumexp(1).tolist(), rel=1e-5)
    assert not [w for w in recwarn if "images are prepared" in str(w.message)]
