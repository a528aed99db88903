"""NegLabel."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import oodline as ol
from oodline.detectors.neglabel import NegLabel
from oodline.errors import DataError, HeadError, MismatchError, SettingError


def unit(x):
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    text, words, images = torch.randn(6, 12), torch.randn(70, 12), torch.randn(40, 12)
    return ol.Classifier.zero_shot(torch.nn.Flatten(), text), text, words, images


@pytest.mark.parametrize(("keep", "quantile"), [(0.3, 0.05), (1.0, 0.5), (0.1, 0.0)])
def test_the_words_farthest_from_the_classes_are_taken(case, keep, quantile):
    classifier, text, words, _ = case
    distance = [np.quantile([-(w @ t) for t in unit(text)], quantile) for w in unit(words)]
    expected = sorted(range(70), key=lambda i: -distance[i])[: round(keep * 70)]
    found = NegLabel(words=words, keep=keep, quantile=quantile, groups=1).fit(classifier).negatives[0]
    which = {int((found[i] - torch.from_numpy(unit(words)).float()).abs().sum(1).argmin()) for i in range(len(found))}
    assert which == set(expected)
    assert len(found) == len(expected)


@pytest.mark.parametrize(("groups", "temperature"), [(1, 0.1), (4, 0.01), (100, 1.0)])
def test_equals_the_formula(case, assert_equals, groups, temperature):
    classifier, text, words, images = case
    detector = NegLabel(words=words, keep=0.3, groups=groups, temperature=temperature).fit(classifier)
    assert detector.negatives.shape == (min(groups, 21), 21 // min(groups, 21), 12)
    expected = []
    for f in unit(images):
        known = sum(np.exp(f @ t / temperature) for t in unit(text))
        shares = [known / (known + sum(np.exp(f @ w / temperature) for w in unit(g))) for g in detector.negatives]
        expected.append(np.log(np.mean(shares)))
    assert_equals(detector(classifier(images)), np.array(expected))


def test_a_sure_match_still_ranks(case):
    classifier, text, words, _ = case
    nearer, farther = detector_scores(classifier, words, text[:1], text[:1] + 0.1 * words[:1])
    assert farther < nearer < 0 or nearer < farther < 0
    assert min(nearer, farther) > -1e-20  # both shares are 1 in double precision


def detector_scores(classifier, words, *images):
    detector = NegLabel(words=words, temperature=0.002).fit(classifier)
    return [float(detector(classifier(image))) for image in images]


def test_a_file_of_words_is_read_once_and_the_guard_file_holds_the_vectors(case, tmp_path):
    classifier, _, words, images = case
    path = tmp_path / "words.safetensors"
    save_file({"vectors": words}, path)
    detector = ol.create_detector(f"neglabel,words={path}").fit(classifier)
    assert torch.equal(detector.negatives, NegLabel(words=words).fit(classifier).negatives)
    guard = ol.Guard(classifier, detector).calibrate([images])
    file = guard.save(tmp_path / "guard.safetensors")
    path.unlink()
    again = ol.Guard.load(file, classifier)
    assert torch.equal(again(images).score, guard(images).score)
    assert torch.equal(again.detector.negatives, detector.negatives)


def test_no_pass_is_made(case):
    classifier, _, words, _ = case

    def loader():
        raise AssertionError("it was read")
        yield

    assert NegLabel(words=words).fit(classifier, loader()).fitted
    assert ol.fit(["mcm"], classifier).detectors["mcm"].fitted


def test_what_is_no_word_is_refused(case):
    classifier, _, words, _ = case
    with pytest.raises(SettingError, match=r"`words` must be vectors of candidate words.*neglabel,words=FILE"):
        NegLabel().fit(classifier)
    with pytest.raises(MismatchError, match="`words` must be vectors of 12 numbers, as the features are; got 11"):
        NegLabel(words=words[:, :11]).fit(classifier)
    with pytest.raises(DataError, match="not all 0; got others in row 1"):
        NegLabel(words=[[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(DataError, match=r"there is no file nowhere\.npy"):
        NegLabel(words="nowhere.npy").fit(classifier)
    with pytest.raises(HeadError, match="one class per sample"):
        NegLabel(words=words).fit(ol.Classifier(classifier.model, "head", task="multilabel"))
