"""`finetune` end to end: every recipe, resuming, early stop, checkpoints, and the command."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oodline as ol
from oodline.cli import main
from oodline.data import TensorLoader, TensorSource
from oodline.errors import AssumptionWarning, DataError, LabelError, ModelError, SettingError, UnknownNameError
from oodline.testing import toy_images, toy_loader, toy_network, toy_problem
from oodline.training import RECIPES, CrossEntropy, Recipe, Shuffled, finetune, load_checkpoint
from oodline.training.data_identity import UNTOLD, DataIdentity
from oodline.training.epochs import Training
from oodline.training.optimisation import optimiser_for, rate_at
from oodline.training.recipe import recipe_of

OOD = {"far": [torch.full((20, 4), -9.0)]}


def images(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 8, 8, generator=generator)
    return TensorLoader(TensorSource({"x": pixels, "labels": torch.arange(count) % 3}), 6)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_a_copy_of_a_network(name):
    classifier = ol.Classifier(toy_network())
    before = copy.deepcopy(classifier.model.state_dict())
    state = torch.get_rng_state()
    recipe = recipe_of("imood,discriminator=linear" if name == "imood" else name)
    auxiliary = images(18, seed=1) if recipe.needs_auxiliary else None
    found = finetune(classifier, images(), recipe, epochs=1, auxiliary=auxiliary, learning_rate=0.001)
    torch.testing.assert_close(classifier.model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    changed = found.classifier.model.state_dict()
    assert any(key not in before or not torch.equal(changed[key], before[key]) for key in changed)
    assert torch.isfinite(found.classifier(torch.rand(2, 3, 8, 8)).logits).all()
    assert (found.plain is None) == (name == "cross-entropy") and found.comparison is None
    assert set(found.histories) == {"cross-entropy", name} and recipe.summary


def test_all_three_are_compared_under_the_same_detectors():
    classifier, train = toy_problem()
    found = finetune(
        classifier, train, "t2f-norm", epochs=2, test=toy_loader(1), ood=OOD, groups={"far": ["far"]},
        detectors=["energy", "knn,k=5"],
    )  # fmt: skip
    tables = found.comparison.tables
    assert list(tables) == ["before", "cross-entropy", "t2f-norm"]
    for name, each in (("before", classifier), ("t2f-norm", found.classifier), ("cross-entropy", found.plain)):
        knn = ol.KNN(k=5).fit(each, train)
        expected = ol.evaluate(knn, each, toy_loader(1), OOD)
        assert found.comparison.value(name, "knn") == expected.value("knn", "auroc", "far")
        assert tables[name].accuracy == expected.accuracy
    assert found.time_ratio > 0
    assert found.comparison.to_markdown().startswith("| AUROC | far: before | cross-entropy | t2f-norm |")


def test_without_a_name_the_cheap_detectors_and_the_default_are_fitted():
    classifier, train = toy_problem()
    found = finetune(classifier, train, "cross-entropy", epochs=1, test=toy_loader(1), ood=OOD)
    assert {"default", "energy", "line"} < set(found.comparison.detectors)


class Killed(Exception):
    pass


def test_what_was_begun_on_something_else_is_not_resumed(tmp_path, monkeypatch):
    classifier, train = toy_problem()
    moved = ol.Classifier(copy.deepcopy(classifier.model))
    moved.model[-1].bias.data += 1
    given = {"train": train, "recipe": "energy-margin", "epochs": 2, "held_out": toy_loader(1),
             "auxiliary": OOD["far"], "learning_rate": 0.001, "output": tmp_path / "out"}  # fmt: skip
    write = Training._write

    def killed(self, *arguments):
        write(self, *arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Training, "_write", killed)
        finetune(classifier, **given)
    for change, why in (
        ({"train": [(x + 1, y) for x, y in train]}, "training data .*, here "),
        ({"held_out": toy_loader(2)}, "held-out data .*, here "),
        ({"auxiliary": [torch.full((20, 4), 9.0)]}, "auxiliary data .*, here "),
        ({"accuracy_lost": 0.5}, r"accuracy lost 0\.02, here 0\.5"),
        ({"classifier": moved}, "weights .*, here "),
        ({"recipe": "rna"}, "optimiser sgd, here adam"),
        ({"seed": 1}, "seed 0, here 1"),
    ):
        with pytest.raises(DataError, match=rf"cross-entropy\.pt is of another training: .*{why}.* Remove it to"):
            finetune(**{"classifier": classifier, **given, **change})
    assert len(finetune(classifier, **given).histories["energy-margin"].loss) == 2


def test_random_numbers_of_torch_are_told_and_others_are_not():
    data = TensorDataset(torch.arange(12.0)[:, None], torch.arange(12) % 3)
    one, other = (DataIdentity(DataLoader(data, 4, shuffle=True)).text() for _ in range(2))
    batches = iter(range(9))
    noisy = (DataIdentity(Rereadable(lambda: [torch.tensor([float(next(batches))])])).text() for _ in range(2))
    assert one == other and set(noisy) == {UNTOLD}


class Rereadable:
    def __init__(self, read):
        self.read = read

    def __iter__(self):
        return iter(self.read())


@pytest.mark.parametrize("recipe", ["rna", "ascood-random"])
def test_a_training_that_was_killed_goes_on_as_it_would_have(recipe, tmp_path, monkeypatch):
    classifier = ol.Classifier(toy_network())
    options = {"epochs": 3, "auxiliary": images(18, seed=1), "seed": 5}
    whole = finetune(classifier, images(), recipe, **options, output=tmp_path / "whole")
    write, left = Training._write, [4]

    def killed(self, *arguments):
        write(self, *arguments)
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(Training, "_write", killed)
    with pytest.raises(Killed):  # after three epochs of cross-entropy and one of the recipe
        finetune(classifier, images(), recipe, **options, output=tmp_path / "again")
    left[0] = 99
    torch.manual_seed(99)
    again = finetune(classifier, images(), recipe, **options, output=tmp_path / "again")
    assert left[0] == 97  # two epochs were left
    torch.testing.assert_close(again.classifier.model.state_dict(), whole.classifier.model.state_dict(), rtol=0, atol=0)
    assert again.histories[recipe].loss == whole.histories[recipe].loss
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "whole"]


def test_the_state_of_another_training_is_refused(tmp_path):
    training = Training(
        toy_network(), RECIPES["cross-entropy"], CrossEntropy(), None, images(), 1, 0, 0.01, state=tmp_path / "a.pt"
    )
    training.run()
    training.model = toy_network()
    assert training.run().loss  # it is done, and says what it did
    training.model = toy_network()
    training.seed, whole = 1, training.state.read_bytes()
    with pytest.raises(DataError, match=r"a\.pt is of another training"):
        training.run()
    training.seed = 0
    complete = torch.load(training.state, weights_only=True)
    for content in (whole[:100], b"", b"hello", {"a": 1}, [1], complete | {"model": {}}, complete | {"history": 3}):
        training.state.write_bytes(content) if isinstance(content, bytes) else torch.save(content, training.state)
        training.model = toy_network()
        with pytest.raises(DataError, match=r"a\.pt is damaged: .*\. Remove it to begin anew"):
            training.run()


def test_it_ends_where_accuracy_is_lost_and_keeps_the_weights_before():
    classifier, train = toy_problem()
    found = finetune(
        classifier, train, "cross-entropy", epochs=5, learning_rate=1e3, held_out=toy_loader(1), test=toy_loader(2),
        ood=OOD, detectors="msp", bootstrap=9,
    )  # fmt: skip
    history = found.histories["cross-entropy"]
    assert history.stopped.startswith("after epoch 1 of 5 the accuracy was") and len(history.loss) == 1
    assert found.notes == found.to_dict()["notes"] == {"cross-entropy": "no epoch kept"}
    assert found.to_dict()["histories"]["cross-entropy"]["epochs_kept"] == 0
    text = str(found)
    assert "| AUROC | far: before | cross-entropy (no epoch kept) |" in text
    assert "| msp | 100.00 [100.0, 100.0] | 100.00 [100.0, 100.0] |" in text
    assert "cross-entropy: no epoch kept, these are the weights from before: the first epoch took the accuracy" in text
    assert "from 1.000 to 0.333, a larger loss than allowed. Lower `learning_rate`" in text and "loss 0." not in text
    torch.testing.assert_close(found.classifier.model.state_dict(), classifier.model.state_dict(), rtol=0, atol=0)


def test_a_doubt_says_which_network_it_is_about():
    classifier, train = toy_problem()
    with pytest.warns(AssumptionWarning) as caught:
        finetune(
            classifier, train, "logit-norm", epochs=1, test=toy_loader(1), ood=OOD, detectors=["feature-norm", "msp"]
        )
    about = [str(each.message).partition(": FeatureNorm may do worse than MSP here")[0] for each in caught]
    assert about == ["before fine-tuning", "after cross-entropy", "after logit-norm"]


def test_a_head_that_begins_anew_may_learn_first():
    classifier, train = toy_problem()
    loss = Recipe("abet", "", lambda _: CrossEntropy(), RECIPES["abet"].head, learning_rate=0.3, schedule="constant")
    found = finetune(classifier, train, loss, epochs=12, held_out=toy_loader(1), accuracy_lost=0.2)
    history = found.histories["abet"]
    assert len(history.accuracy) == 1 + len(history.loss) and max(history.accuracy) > 0.6


def test_mixed_precision_trains_float32_weights():
    classifier, train = toy_problem()
    found = finetune(classifier, train, "energy-margin", epochs=1, auxiliary=OOD["far"], dtype="bfloat16")
    assert {p.dtype for p in found.classifier.model.parameters()} == {torch.float32}


def test_checkpoints_are_loaded_with_their_head(tmp_path):
    classifier, train = toy_problem()
    found = finetune(classifier, train, "abet", epochs=1, output=tmp_path / "out", learning_rate=0.01,
                     names={"train": "toy"})  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "abet.safetensors", "cross-entropy.safetensors", "finetuned.json",
    ]  # fmt: skip
    loaded = load_checkpoint(copy.deepcopy(classifier.model), tmp_path / "out" / "abet.safetensors")
    x = toy_loader(1)[0][0]
    torch.testing.assert_close(loaded(x), found.classifier(x).logits)
    plain = load_checkpoint(copy.deepcopy(classifier.model), tmp_path / "out" / "cross-entropy.safetensors")
    torch.testing.assert_close(plain(x), found.plain(x).logits)
    record = json.loads((tmp_path / "out" / "finetuned.json").read_text())
    assert record["recipe"] == "abet" and len(record["histories"]["abet"]["loss"]) == 1
    assert record["learning_rate"] == found.recipe.learning_rate == 0.01
    assert (record["epochs"], record["seed"], record["dtype"], record["schedule"]) == (1, 0, "float32", "steps")
    assert record["classifier"]["head_sha256"] == classifier.head.fingerprint
    assert record["data"]["train"]["name"] == "toy" and len(record["data"]["train"]["content"]) == 64
    with pytest.raises(ModelError, match="has its head at '2', and Linear has no such module"):
        load_checkpoint(nn.Linear(4, 3), tmp_path / "out" / "abet.safetensors")
    for name in ("none", "damaged"):
        (tmp_path / "damaged").write_bytes(b"x")
        with pytest.raises(ModelError, match=name if name == "none" else "not a safetensors file"):
            load_checkpoint(nn.Linear(4, 3), tmp_path / name)


def test_what_cannot_be_trained_says_so(tmp_path):
    classifier, train = toy_problem()
    with pytest.raises(UnknownNameError, match="Did you mean 'logit-norm'"):
        finetune(classifier, train, "logitnorm", epochs=1)
    with pytest.raises(UnknownNameError, match="unknown part of the record 'training'"):
        finetune(classifier, train, "t2f-norm", epochs=1, names={"training": "x"})
    with pytest.raises(SettingError, match="the recipe 'greg' needs `auxiliary`"):
        finetune(classifier, train, "greg", epochs=1)
    with pytest.raises(SettingError, match="`test` must be ID test data"):
        finetune(classifier, train, "t2f-norm", epochs=1, ood=OOD)
    with pytest.raises(SettingError, match="'t2f-norm' does not take these settings"):
        finetune(classifier, train, "t2f-norm,heat=3", epochs=1)
    [(inputs, labels)] = train
    for wrong, why in (
        (None, r"a batch has none\. Yield \(inputs, labels\)"),
        (labels[:, None], r"got int64 \(60, 1\)\. Pass labels\.flatten\(\)"),
        (nn.functional.one_hot(labels), r"got int64 \(60, 3\)\. .* one-hot, pass labels\.argmax\(1\)"),
        (labels > 0, r"got bool \(60,\)\. Pass labels\.long\(\)"),
        (labels.float(), r"got float32 \(60,\)\. Pass labels\.long\(\)"),
        (labels[:9], r"got int64 \(9,\)"),
        (labels - 1, "got -1, of labels from -1 to 1. Number the classes from 0"),
    ):
        with pytest.raises(LabelError, match=rf"training labels must be .* integers \(60,\) from 0 to 2; {why}"):
            finetune(classifier, [(inputs, wrong)], "t2f-norm", epochs=1)
    with pytest.raises(LabelError, match=r"held-out labels must be .*flatten"):
        finetune(classifier, train, "t2f-norm", epochs=1, held_out=[(inputs, labels[:, None])])
    with pytest.raises(LabelError, match="no sample of class 2"):
        finetune(classifier, [(train[0][0], train[0][1] % 2)], "t2f-norm", epochs=1)
    with pytest.raises(DataError, match="the loss of cross-entropy became"):
        finetune(classifier, train, "t2f-norm", epochs=9, learning_rate=1e30)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").touch()
    with pytest.raises(DataError, match="other things in it"):
        finetune(classifier, train, "t2f-norm", epochs=1, output=tmp_path / "other")


def test_classifiers_that_the_losses_are_not_for_are_refused():
    several = ol.Classifier(toy_network(), task="multilabel")
    with pytest.raises(SettingError, match=r"must have classes of which each sample has one; got task='multilabel'"):
        finetune(several, images(), "logit-norm", epochs=1)
    one = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with pytest.raises(SettingError, match=r"one logit for two. Give the network a head of two logits"):
        finetune(ol.Classifier(one, binary=True), images(), "logit-norm", epochs=1)
    rows = ol.RowClassifier(nn.Conv2d(3, 4, 1), ol.Pixels())
    with pytest.raises(SettingError, match=r"one row of logits per input; got RowClassifier"):
        finetune(rows, images(), "logit-norm", epochs=1)
    with pytest.raises(SettingError, match=r"weights to train; got Sequential"):
        finetune(ol.Classifier(toy_network().requires_grad_(False)), images(), "logit-norm", epochs=1)


def test_the_fine_tuned_classifier_is_read_as_the_first_one():
    name = ol.Classifier(toy_network()).head_name
    classifier = ol.Classifier(toy_network(), name, dtype="bfloat16", compile="eager")
    found = finetune(classifier, images(), "logit-norm", epochs=1).classifier
    assert found.head_is_named and found.head_name == name
    assert (found.dtype, found.compile_backend) == ("bfloat16", "eager")


def test_learning_rates_and_optimisers():
    assert [rate_at("steps", 1.0)(x) for x in (0.49, 0.5, 0.75, 0.95)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert rate_at("cosine", 0.1)(1) == pytest.approx(1e-6) and rate_at("constant", 0.1)(1) == 0.1
    sgd = optimiser_for(RECIPES["abet"], nn.Linear(1, 1).parameters(), 0.1)
    assert not sgd.defaults["nesterov"] and sgd.defaults["weight_decay"] == 1e-4


def test_shuffled_reads_each_sample_once_and_pairs_it_with_its_label():
    loader = images(13)
    known = {tuple(x.flatten().tolist()): int(y) for b in loader for x, y in zip(b.inputs, b.labels, strict=True)}
    shuffled = Shuffled(loader, 4)
    batches = list(shuffled)
    assert [len(b.labels) for b in batches] == [4, 4, 4] and len(shuffled) == 3  # a last one of one is left out
    assert all(
        known[tuple(x.flatten().tolist())] == int(y) for b in batches for x, y in zip(b.inputs, b.labels, strict=True)
    )
    moved = torch.cat([b.inputs for b in Shuffled(loader, 13, flip=True, shift=2)])
    assert moved.shape == (13, 3, 8, 8) and float((moved == 0).double().mean()) > 0.05


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("train", "test", "noise")):
        toy_images(name, seed=seed)
    (tmp_path / "m.py").write_text("from oodline.testing import toy_network as build\n")
    arguments = ["finetune", "--model", "python:m.py:build", "--data", "train/images", "--recipe", "logit-norm",
                 "--epochs", "1", "--test", "test/images", "--far", "noise/images", "--held-out", "test/images",
                 "-d", "energy", "-o", "out", "--preprocessing", "{}", "--accuracy-lost", "0.9", "--flip"]  # fmt: skip

    def run(*words):
        with pytest.raises(SystemExit) as end:
            main(words)
        return end.value.code

    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert "| energy |" in printed and "wrote out" in printed and "logit-norm: loss" in printed
    assert (tmp_path / "out" / "table.md").read_text().strip() in printed
    assert run(*arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    read = document["data"]
    assert (read["train"]["name"], read["train"]["batch_size"], read["train"]["flip"]) == ("train/images", 64, True)
    assert [part["name"] for key, part in read.items() if key.startswith("ood/")] == ["noise/images"]
    assert read["test"]["samples"] == 12
    assert document["classifier"]["name"] == "python:m.py:build" and document["epochs"] == 1
    assert document["tables"].keys() == {"before", "cross-entropy", "logit-norm"} and document["skipped"] == {}
    assert run(*arguments, "--shift", "-1") == 1
    assert "`--shift` must be at least 0" in capsys.readouterr().err
