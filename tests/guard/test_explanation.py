"""An explanation lists the neurons that a slow, plain computation finds, and says where there is none."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import HeadError, InputError, NotFittedError, SettingError
from oodline.testing import toy_loader, toy_problem

IMAGES = torch.cat([toy_loader(seed=2)[0][0], torch.randn(10, 4, generator=torch.Generator().manual_seed(3)) * 3])
P_A, CLIP = 0.5, 2.0


@pytest.fixture(scope="module")
def guards():
    classifier, loader = toy_problem()
    line, neurons = ol.LINe(p_a=P_A, p_w=0.5, clip=CLIP), ol.Neurons(samples=2)
    ol.fit([line, neurons], classifier, loader)
    return {
        "line": ol.Guard(classifier, line, class_names=tuple("abc")).calibrate(toy_loader(seed=1)),
        "line and neurons": ol.Guard(classifier, line, neurons=neurons).calibrate(toy_loader(seed=1)),
        "energy and neurons": ol.Guard(classifier, ol.Energy(), neurons=neurons).calibrate(toy_loader(seed=1)),
        "energy": ol.Guard(classifier, ol.Energy()).calibrate(toy_loader(seed=1)),
    }


def reference(guard, clip, share):
    """Expected and found contributions, importance and class, straight from features, weights and labels."""
    classifier, [(images, labels)] = guard.classifier, toy_problem()[1]
    W, b = classifier.head.weight.double().numpy(), classifier.head.bias.double().numpy()
    train = classifier(images).features.double().numpy()
    S = np.stack([W[c] * train[labels.numpy() == c].mean(0) for c in range(3)])
    spread = np.stack([np.abs(W[c]) * train[labels.numpy() == c].std(0, ddof=1) for c in range(3)])
    for f in classifier(IMAGES).features.double().numpy():
        c = int((W @ np.minimum(f, clip) + b).argmax())
        kept = [d for d in np.argsort(-S[c]) if S[c, d] > max(0, np.quantile(S[c], share))]
        few, total = np.zeros(16, bool), sum(S[c, d] for d in kept)
        for d in kept:
            if S[c, few].sum() < 0.8 * total:
                few[d] = True
        yield c, S[c], W[c] * f, few, spread[c], f


@pytest.mark.parametrize(("name", "clip", "share"), [("line", CLIP, P_A), ("energy and neurons", np.inf, 0.9)])
def test_expected_found_and_important_are_those_of_the_formula(guards, name, clip, share):
    guard = guards[name]
    for explanation, (c, expected, found, important, spread, f) in zip(
        guard.explain(IMAGES, top=4), reference(guard, clip, share), strict=True
    ):
        assert explanation.predicted_class == c
        np.testing.assert_allclose(explanation.expected, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(explanation.found, found, rtol=1e-4, atol=1e-5)
        assert explanation.important.tolist() == important.tolist()
        assert explanation.found_total == pytest.approx(found[important].sum(), rel=1e-4)
        surprise = (found - expected) / np.maximum(spread, 1e-12)
        excess = np.abs(found) - np.abs(expected)
        if guard.neurons is None:
            missed = [d for d in range(16) if important[d] and found[d] < expected[d] / 2]
            missed.sort(key=lambda d: found[d] - expected[d])
        else:  # 1 standard deviation of the class less, first the most surprising
            missed = sorted((d for d in range(16) if important[d] and surprise[d] < -1), key=lambda d: surprise[d])
        loud = [d for d in range(16) if not important[d] and excess[d] > 0.01 * expected[important].sum()]
        loud = [d for d in loud if guard.neurons is None or abs(surprise[d]) > 1]
        assert [n.neuron for n in explanation.missing] == missed[:4]
        assert [n.neuron for n in explanation.unexpected] == sorted(loud, key=lambda d: -excess[d])[:4]
        for neuron in (*explanation.missing, *explanation.unexpected):
            assert neuron.important == important[neuron.neuron]
            assert neuron.activation == pytest.approx(f[neuron.neuron], rel=1e-5)
            assert neuron.counted == pytest.approx(found[neuron.neuron] / max(f[neuron.neuron], 1e-9) * min(
                f[neuron.neuron], clip), rel=1e-4, abs=1e-6)  # fmt: skip


def test_with_neurons_there_are_z_scores_and_training_samples(guards):
    without, guard = guards["line"], guards["line and neurons"]
    neurons = guard.neurons
    for plain, explanation in zip(without.explain(IMAGES), guard.explain(IMAGES), strict=True):
        assert torch.equal(plain.important, explanation.important)
        assert all(n.z is None and n.samples == () for n in plain.missing)
        for neuron in (*explanation.missing, *explanation.unexpected):
            mean, spread = (t[explanation.predicted_class, neuron.neuron] for t in (neurons.mean, neurons.spread))
            assert neuron.mean == float(mean)
            if spread == 0:
                assert neuron.z is None
            else:
                assert neuron.z == pytest.approx(float((neuron.activation - mean) / spread), rel=1e-4, abs=1e-4)
            assert [s.index for s in neuron.samples] == neurons.top_index[:, neuron.neuron].tolist()


def test_the_verdict_is_the_guards_own_and_the_row_is_json(guards):
    guard = guards["line"]
    rows = guard(IMAGES).rows()
    for row, explanation in zip(rows, guard.explain(IMAGES), strict=True):
        document = json.loads(explanation.to_json())
        assert document == explanation.to_dict()
        assert {key: document[key] for key in row} == row
        assert document["predicted_class_name"] == "abc"[document["predicted_class"]]
        assert len(document["contributions"]["found"]) == 16


def test_ood_inputs_lack_more_of_what_is_expected(guards):
    guard = guards["line"]
    share = torch.tensor([e.found_total / e.expected_total for e in guard.explain(IMAGES)])
    assert share[:60].median() > 0.9
    assert guard.explain(torch.zeros(1, 4))[0].found_total == 0


def test_a_detector_without_contributions_says_which_have_them(guards):
    with pytest.raises(
        SettingError,
        match=r"'energy' cannot .*: line, band-energy, soft-line\. Or fit `Neurons` in the same pass",
    ):
        guards["energy"].explain(IMAGES)


def test_what_cannot_be_explained_is_refused(guards):
    with pytest.raises(SettingError, match="`top` must be an integer of at least 1; got 0"):
        guards["line"].explain(IMAGES, top=0)
    with pytest.raises(InputError, match="refused a batch"):
        guards["line"].explain(torch.zeros(2, 7))
    classifier, loader = toy_problem()
    with pytest.raises(NotFittedError, match="no threshold yet"):
        ol.Guard(classifier, ol.LINe().fit(classifier, loader)).explain(IMAGES)
    head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    layered = ol.Classifier(nn.Sequential(classifier.model[0], nn.ReLU(), head), "2")
    guard = ol.Guard(layered, ol.LINe(p_a=0.1, p_w=0.1).fit(layered, loader)).calibrate(toy_loader(seed=1))
    with pytest.raises(HeadError, match="an explanation needs one linear layer"):
        guard.explain(IMAGES)


def test_a_picture_is_drawn_with_and_without_what_may_be_missing(guards):
    from PIL import Image

    asked = []

    def sample(index):
        asked.append(index)
        return Image.new("RGB", (8, 8), (index, 0, 0))

    [full] = guards["line and neurons"].explain(torch.zeros(1, 4), top=3)
    figure = full.plot(image=Image.new("L", (8, 8)), sample=sample)
    figure.canvas.draw()
    text = " ".join(t.get_text() for t in figure.findobj(match=lambda a: hasattr(a, "get_text")))
    assert "Flagged" in text and "class" in text and "sd" in text
    assert set(asked) == {s.index for n in (*full.missing, *full.unexpected) for s in n.samples}
    [bare] = guards["line"].explain(IMAGES[:1], top=3)
    figure = bare.plot()
    figure.canvas.draw()
    text = " ".join(t.get_text() for t in figure.findobj(match=lambda a: hasattr(a, "get_text")))
    assert "no picture of the input" in text
    assert "$" not in text


def test_images_have_maps_whose_sums_are_the_contributions_in_two_passes():
    from oodline.testing.toys import toy_image_guard

    guard, passes = toy_image_guard(), []
    hook = guard.classifier.model.register_forward_hook(lambda *_: passes.append(1))
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    guard(images)  # the first verdict also proves the classifier
    passes.clear()
    explained = guard.explain(images)
    hook.remove()
    assert len(passes) == 2
    A = torch.relu(guard.classifier.model[0](images)).detach().numpy() / 64
    W = guard.classifier.head.weight.numpy(force=True)
    for i, one in enumerate(explained):
        expected = np.zeros((3, 8, 8))
        for d in range(12):
            own = W[one.predicted_class, d] * A[i, d]
            expected[0] += own * bool(one.important[d])
            expected[1] += sum((n.expected / 64 - own) for n in one.missing if n.neuron == d)
            expected[2] += sum(np.sign(n.found) * own for n in one.unexpected if n.neuron == d)
        np.testing.assert_allclose(one.maps.evidence, expected[0], atol=1e-5)
        np.testing.assert_allclose(one.maps.missing, np.maximum(expected[1], 0), atol=1e-5)
        np.testing.assert_allclose(one.maps.unexpected, expected[2], atol=1e-5)
        assert float(one.maps.evidence.sum()) == pytest.approx(one.found_total, abs=1e-4)
        assert one.pixels.shape == (8, 8, 3)
        assert json.loads(one.to_json())["maps"] == one.maps.to_dict()
    assert any(one.missing for one in explained)
    figure = explained[0].plot()
    figure.canvas.draw()


def test_sentences_name_the_classes_the_model_and_whose_neurons_are_shown(guards):
    [one] = guards["line"].explain(IMAGES[:1])
    classifier = guards["line"].classifier
    shares = classifier(IMAGES[:1]).logits.softmax(1)[0]
    assert [c.label for c in one.classes] == shares.argsort(descending=True).tolist()
    assert [c.probability for c in one.classes] == pytest.approx(sorted(shares.tolist(), reverse=True))
    text = " ".join(one.sentences)
    assert "Sequential, head '2'" in text and "usual among held-out images" in text
    assert "The class may still be wrong" in text and "softmax" in text
    [one] = guards["energy and neurons"].explain(torch.zeros(1, 4))
    assert (one.detector, one.explained_by) == ("energy", "neurons")
    assert "Flagged: the score of energy" in str(one) and "do not act on the class" in str(one)


def test_a_fused_guard_says_which_member_raised_the_alarm():
    classifier, loader = toy_problem()
    fuse = ol.Fuse(["energy", ol.LINe(p_a=0.5, p_w=0.5, clip=5.0)]).fit(classifier, loader)
    guard = ol.Guard(classifier, fuse).calibrate(toy_loader(seed=1))
    line = ol.Guard(classifier, fuse.detectors[1]).calibrate(toy_loader(seed=1))
    assert guard.explains
    activations = classifier(IMAGES)
    for i, (mine, its) in enumerate(zip(guard.explain(IMAGES), line.explain(IMAGES), strict=True)):
        expected = {name: float(p[i]) for name, p in fuse.p_values(activations).items()}
        assert mine.to_dict()["members"] == pytest.approx(expected)
        assert list(mine.members) == sorted(expected, key=expected.get)
        assert mine.explained_by == "line"
        if mine.verdict["is_ood"]:
            own = next(iter(mine.members)) == "line"
            assert ("the neurons below are its own" in str(mine), "they need not be why" in str(mine)) == (own, not own)
        assert [n.to_dict() for n in mine.missing] == [n.to_dict() for n in its.missing]
        assert its.members == {}


def test_what_a_fusion_inside_another_detector_says_is_found():
    classifier, loader = toy_problem()
    inner = ol.Fuse(["energy", ol.LINe(p_a=0.5, p_w=0.5, clip=5.0)])
    detector = ol.PriorNormalised(scorer=inner).fit(classifier, loader)
    guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    alone = ol.Guard(classifier, inner.detectors[1]).calibrate(toy_loader(seed=1))
    (found,), (its,) = guard.explain(IMAGES[:1]), alone.explain(IMAGES[:1])
    p_values = {name: float(p) for name, p in inner.p_values(classifier(IMAGES[:1])).items()}
    assert found.members == pytest.approx(p_values)
    assert [n.to_dict() for n in found.missing] == [n.to_dict() for n in its.missing]
    # a rectifier's scorer reads other features than the input has: nothing is said for it
    assert not ol.Guard(classifier, ol.ReAct(scorer=ol.Fuse("msp+energy")).fit(classifier, loader)).explains


def test_a_fused_guard_without_contributions_says_which_have_them():
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, ol.Fuse("energy+msp").fit(classifier, loader)).calibrate(toy_loader(seed=1))
    assert not guard.explains
    with pytest.raises(SettingError, match="'fuse' cannot explain a verdict"):
        guard.explain(IMAGES)
