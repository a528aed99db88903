"""LINe against masks of every weight for every class, and against the values of the authors' own code."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from oodline.detectors.catalog import create_detector
from oodline.detectors.dice import DICE
from oodline.detectors.line import LINe, weight_thresholds
from oodline.detectors.msp import MSP
from oodline.errors import FewSamplesWarning, LabelError, SettingError
from oodline.model.classifier import Classifier
from oodline.model.head import LayeredHead, LinearHead
from oodline.statistics import ClassMoments, Contributions
from oodline.testing import activations_of, toy_problem

SETTINGS = [(0.1, 0.1, 0.8), (0.9, 0.9, 1.0), (0.1, 0.9, 1.0), (0.0, 0.0, math.inf), (0.5, 0.75, 2.0)]


def masks(S: np.ndarray, W: np.ndarray, p_a: float, p_w: float, contribution: str) -> np.ndarray:
    """Which weight (k, d) is kept for class c: the mask (C, K, D) of neurons and weights, class by class."""
    kept = np.zeros((len(S), *W.shape), dtype=bool)
    for c in range(len(S)):
        ranked = np.abs(S[c]) if contribution == "absolute" else S[c]
        neurons = ranked > np.quantile(ranked, p_a)
        importance = np.abs(S[c]) * W
        weights = importance > np.quantile(importance, p_w)
        kept[c] = weights & neurons
    return kept


def class_means(f: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    return np.array([f[y == c].mean(0) for c in range(classes)])


def scores_of(case, p_a, p_w, clip, contribution, route, f) -> np.ndarray:
    """The formula of DESIGN.md, sample by sample."""
    W, b = case.W, case.b
    M = masks(W * class_means(case.f, case.y, len(W)), W, p_a, p_w, contribution)
    scores = []
    for x in f:
        h = np.minimum(x, clip)
        c = np.argmax(W @ (h if route == "clipped" else x) + b)
        scores.append(np.logaddexp.reduce((W * M[c]) @ h + b))
    return np.array(scores)


@pytest.mark.parametrize("route", ["clipped", "full"])
@pytest.mark.parametrize("contribution", ["signed", "absolute"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_equals_the_formula(draw, assert_equals, setting, contribution, route, signed):
    p_a, p_w, clip = setting
    for seed in range(3):
        case, other = draw(seed, signed=signed), draw(seed + 100, signed=signed)
        detector = case.fit(LINe(p_a=p_a, p_w=p_w, clip=clip, contribution=contribution, route=route))
        scores = detector(activations_of(other.features, case.head))
        assert_equals(scores, scores_of(case, p_a, p_w, clip, contribution, route, other.f))


def test_the_readings_differ(draw):
    case = draw(0, signed=True)
    scores = [
        case.fit(LINe(p_a=0.5, clip=0.8, contribution=contribution, route=route))(case.activations)
        for contribution in ("signed", "absolute")
        for route in ("clipped", "full")
    ]
    assert all(not torch.allclose(one, other) for one, other in itertools.combinations(scores, 2))


def test_another_scorer_reads_the_masked_logits(draw, assert_equals):
    case = draw(0)
    detector = case.fit(LINe(p_a=0.5, p_w=0.5, scorer=MSP()))
    logits = case.fit(LINe(p_a=0.5, p_w=0.5)).rectify(case.activations).logits.double().numpy()
    assert_equals(detector(case.activations), logits.max(1) - np.logaddexp.reduce(logits, axis=1))


def test_a_scorer_that_would_lose_the_masks_is_refused():
    for rectifier in (LINe, DICE):
        with pytest.raises(SettingError, match="masks weights, so its scorer must read the logits"):
            rectifier(scorer=DICE())


def thresholds_keep_the_mask(S: np.ndarray, W: np.ndarray, p_a: float, p_w: float, contribution: str) -> None:
    thresholds = weight_thresholds(
        torch.from_numpy(S), torch.from_numpy(W), p_a, p_w, absolute=contribution == "absolute"
    ).numpy()
    expected = masks(S, W.astype(np.float64), p_a, p_w, contribution)
    assert np.array_equal(thresholds[:, None, :] < W, expected)


@st.composite
def tied_heads(draw_from) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Small integers, so that many products tie, and fractions at which the percentile is one of them."""
    classes, width = draw_from(st.integers(1, 5)), draw_from(st.integers(1, 7))
    entries = classes * width
    W = draw_from(st.lists(st.integers(-3, 3), min_size=entries, max_size=entries))
    mu = draw_from(st.lists(st.integers(-1, 4), min_size=entries, max_size=entries))
    W = np.array(W, dtype=np.float32).reshape(classes, width)
    at_an_element = st.integers(0, max(entries - 2, 0)).map(lambda rank: rank / max(entries - 1, 1))
    p_w = draw_from(st.one_of(at_an_element, st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9])))
    p_a = draw_from(st.sampled_from([0.0, 0.1, 0.5, 0.9]))
    return W * np.array(mu, dtype=np.float64).reshape(classes, width), W, p_a, p_w


@settings(max_examples=300, deadline=None)
@given(tied_heads(), st.sampled_from(["signed", "absolute"]))
def test_thresholds_keep_the_mask_of_tied_contributions(head, contribution):
    thresholds_keep_the_mask(*head, contribution)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 9),
    st.floats(0, 0.99),
    st.sampled_from([1e-20, 1, 1e15]),
)
def test_thresholds_keep_the_mask_of_any_contributions(seed, classes, width, p_w, size):
    random = np.random.default_rng(seed)
    # few mantissa bits and few distinct means: products of different factors tie, or differ by one rounding
    W = (random.normal(size=(classes, width)).astype(np.float16) * np.float32(size)).astype(np.float32)
    S = W.astype(np.float64) * random.choice([0.0, 0.1, 1 / 3, 1.0], size=(classes, width))
    thresholds_keep_the_mask(S, W, 0.1, p_w, "signed")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 9))
def test_a_weight_exactly_at_the_percentile_is_pruned(seed, classes, width):
    random = np.random.default_rng(seed)
    W = random.normal(size=(classes, width)).astype(np.float32)
    S = W * random.exponential(size=(classes, width))
    rank = int(random.integers(0, classes * width - 1))
    p_w = rank / (classes * width - 1)
    importance = np.sort((np.abs(S[0]) * W.astype(np.float64)).ravel())
    # dividing and multiplying again may miss the integer; where it does not, the percentile is an element
    assume(p_w * (classes * width - 1) == rank)
    assert np.quantile(importance, p_w) == importance[rank]
    thresholds_keep_the_mask(S, W, 0.0, p_w, "signed")


def test_the_paper_p_is_the_fraction_that_is_pruned(draw):
    case = draw(0, classes=4, width=101)
    detector = case.fit(LINe(p_a=0.9, p_w=0.0))
    # of 101 neurons 10 lie above the 90th percentile; a pruned neuron keeps no weight at all
    assert torch.isfinite(detector.threshold).sum(1).tolist() == [10] * 4


def networks(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that ends in a Sequential with one linear layer, with labelled inputs."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3)))
    return model, torch.randn(60, 5, generator=generator), torch.arange(60) % 3


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_activation_times_gradient(seed):
    model, inputs, labels = networks(seed)
    classifier = Classifier(model, head="2")
    detector = LINe(clip=0.8).fit(classifier, [(inputs, labels)])
    plain = LINe(clip=0.8).fit(Classifier(model), [(inputs, labels)])
    assert torch.equal(plain.threshold, detector.threshold)
    moments = ClassMoments(Contributions())
    moments.update(classifier(inputs), labels)
    torch.testing.assert_close(moments.mean.float(), detector.contribution_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_contributions_are_shapley_values(seed):
    model, inputs, labels = networks(seed)
    activations = Classifier(model)(inputs[:4])
    groups = labels[:4]

    def value(sample: int, players: tuple[int, ...]) -> float:
        """The labelled logit when the features of all others are zero."""
        only = torch.zeros(1, 6)
        only[0, list(players)] = activations.features[sample, list(players)]
        return float(activations.head(only)[0, groups[sample]])

    shapley = np.zeros((4, 6))
    for sample, d in itertools.product(range(4), range(6)):
        others = [k for k in range(6) if k != d]
        for size in range(6):
            weight = math.factorial(size) * math.factorial(5 - size) / math.factorial(6)
            for subset in itertools.combinations(others, size):
                shapley[sample, d] += weight * (value(sample, (*subset, d)) - value(sample, subset))
    closed_form = activations.head.weight[groups] * activations.features
    np.testing.assert_allclose(closed_form.numpy(), shapley, atol=1e-6)
    np.testing.assert_allclose(Contributions()(activations, groups).numpy(), shapley, atol=1e-6)


def layered(seed: int, *between: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(5, 12), nn.ReLU())
    head = nn.Sequential(nn.Linear(12, 8), *between, nn.ReLU(), nn.Linear(8, 4))
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", head)
    return model.eval(), torch.randn(80, 5), torch.arange(80) % 4


def layered_scores(
    model: nn.Module, f: Tensor, y: Tensor, p: float, clip: float, contribution: str, route: str
) -> Tensor:
    """Gradients of one sample at a time; the mask on the first layer; the rest applied to what it gives."""
    first, rest = model.head[0], model.head[1:]
    S = np.zeros((4, 12))
    for c in range(4):
        for x in f[y == c]:
            x = x.clone().requires_grad_()
            model.head(x.unsqueeze(0))[0, c].backward()
            S[c] += (x * x.grad).detach().double().numpy() / int((y == c).sum())
    M = masks(S, first.weight.detach().double().numpy(), p, p, contribution)
    scores = []
    with torch.no_grad():
        for x in f:
            h = x.clamp(max=clip)
            c = int(model.head(h if route == "clipped" else x).argmax())
            hidden = (first.weight * torch.from_numpy(M[c])) @ h + first.bias
            scores.append(rest(hidden).logsumexp(0))
    return torch.stack(scores)


@pytest.mark.parametrize("route", ["clipped", "full"])
@pytest.mark.parametrize("contribution", ["signed", "absolute"])
@pytest.mark.parametrize("seed", range(3))
def test_a_head_of_two_layers(seed, contribution, route):
    model, inputs, labels = layered(seed)
    classifier = Classifier(model, head="head")
    detector = LINe(p_a=0.4, p_w=0.4, clip=0.5, contribution=contribution, route=route)
    activations = classifier(inputs)
    assert isinstance(activations.head, LayeredHead)
    scores = detector.fit(classifier, [(inputs, labels)])(activations)
    with torch.no_grad():
        features = model.body(inputs)
    expected = layered_scores(model, features, labels, 0.4, 0.5, contribution, route)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_head_of_several_layers_is_read_in_evaluation_mode():
    model, inputs, labels = layered(0, nn.BatchNorm1d(8), nn.Dropout(0.5))
    classifier = Classifier(model, head="head")
    expected = LINe().fit(classifier, [(inputs, labels)])(classifier(inputs))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = LINe().fit(classifier, [(inputs, labels)])(classifier(inputs))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(scores, expected)


def test_contributions_keep_their_precision_under_autocast():
    model, inputs, labels = layered(0)
    activations = Classifier(model, head="head")(inputs)
    expected = Contributions()(activations, labels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(Contributions()(activations, labels), expected)


def test_a_class_without_samples_is_named(draw):
    case = draw(0)
    with pytest.raises(LabelError, match=r"1 of 4 classes have no sample among the 48 .*: 3\."):
        replace(case, labels=case.labels.clamp(max=2)).fit(LINe())


def test_a_class_without_samples_may_stay_dense(draw):
    case = draw(0)
    detector = LINe(p_a=0.9, p_w=0.9, clip=0.8, unseen="dense")
    with pytest.warns(
        FewSamplesWarning, match="1 of 4 classes have no sample, and LINe keeps all their neurons: 3. Fit"
    ):
        replace(case, labels=case.labels.clamp(max=2)).fit(detector)
    clipped = case.features.clamp(max=detector.clip)
    logits = case.head(clipped)
    unseen = logits.argmax(1) == 3
    assert 0 < unseen.sum() < len(unseen)
    scores = detector(case.activations)
    torch.testing.assert_close(scores[unseen], logits[unseen].logsumexp(1))
    assert not torch.isclose(scores[~unseen], logits[~unseen].logsumexp(1)).any()


def test_a_dead_layer_is_an_error(draw):
    case = draw(0)
    features = case.features.clone()
    features[case.labels == 2] = 0
    with pytest.raises(LabelError, match=r"no neuron is left for class 2 \(12 samples\): .* its 12 neurons are equal"):
        replace(case, features=features).fit(LINe())


@pytest.mark.parametrize(
    ("contribution", "row"),
    [("signed", [1.0, 1.0, 1.0, 1.0]), ("absolute", [1.0, -1.0, 1.0, -1.0]), ("signed", [0.0, 2.0, 2.0, 2.0])],
    ids=["equal", "equal but for the sign", "tied at the top"],
)
def test_contributions_of_which_none_would_be_kept_are_an_error(contribution, row):
    head = LinearHead(torch.tensor([row, [1.0, 2.0, 3.0, 4.0]]), torch.zeros(2))
    statistics = LINe()._requests(head)
    statistics["moments"].update(activations_of(torch.ones(40, 4), head), torch.arange(40) % 2)
    with pytest.raises(LabelError, match="class 0"):
        LINe(p_a=0.5, contribution=contribution)._settle(statistics, head)


def test_few_samples_of_a_class_are_a_warning(draw):
    case = draw(0)
    few = [(case.labels == c).nonzero().flatten()[: 3 if c == 1 else 9 if c == 2 else 12] for c in range(4)]
    rows = torch.cat(few)
    case = replace(case, features=case.features[rows], labels=case.labels[rows])
    with pytest.warns(FewSamplesWarning, match=r"2 of 4 classes have fewer than 10 samples \(class 1 has 3\)"):
        case.fit(LINe())


def test_ten_samples_a_class_are_enough(draw):
    assert draw(0, n=40).fit(LINe()).fitted


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("p_a=1", "`p_a` must be a number from 0 to below 1; got 1"),
        ("p_w=-0.1", "`p_w` must be .*; got "),
        ("p_w=90", "`p_w` must be .*; got "),
        ("clip=0", "`clip` must be .*; got "),
        ("clip=-1", "`clip` must be .*; got "),
        ("clip=NaN", "`clip` must be a value, or a percentile from '0%' to '100%'; got nan"),
        ("contribution=unsigned", "`contribution` must be 'signed' or 'absolute'; got 'unsigned'"),
        ("route=both", "`route` must be 'clipped' or 'full'; got 'both'"),
        ("unseen=ignore", "`unseen` must be 'error' or 'dense'; got 'ignore'"),
    ],
)
def test_invalid_settings(setting, message):
    with pytest.raises(SettingError, match=message):
        create_detector(f"line,{setting}")


def test_the_labels_and_not_the_predictions_group_the_means():
    classifier, [(inputs, labels)] = toy_problem()
    shifted = LINe().fit(classifier, [(inputs, (labels + 1) % 3)])
    features = classifier(inputs).features
    means = torch.stack([features[(labels + 1) % 3 == c].mean(0) for c in range(3)])
    torch.testing.assert_close(shifted.contribution_, means * classifier.head.weight)


@pytest.mark.real
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_golden_values(shared, data):
    path = shared / "golden" / f"line_{data}.safetensors"
    with safe_open(path, "pt") as file:
        golden = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
        known = {name: float(file.metadata()[name]) for name in ("p_w", "p_a", "clip")}
    head = LinearHead(golden["weight"], golden["bias"])
    means = ClassMoments()
    count = golden["class_count"].long()
    means.load_state_dict({"count": count, "mean": golden["class_mean"], "deviations": torch.zeros(len(count), 0)})
    sets = [name.removeprefix("features.") for name in golden if name.startswith("features.")]
    readings = {tuple(name.split(".")[1:3]) for name in golden if name.count(".") == 3}
    assert ("signed", "clipped") in readings and len(sets) > 1
    for contribution, route in readings:
        detector = LINe(**known, contribution=contribution, route=route)
        detector._settle({"moments": means}, head)
        for name in sets:
            scores = detector(activations_of(golden[f"features.{name}"], head)).double()
            expected = golden[f"line.{contribution}.{route}.{name}"].double()
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
            if (contribution, route) == ("signed", "clipped"):  # the reading of the authors' code
                authors = golden[f"line.authors_layer.{name}"].double()
                torch.testing.assert_close(scores, authors, rtol=0, atol=1e-4)
