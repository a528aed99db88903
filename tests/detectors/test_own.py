"""Own detectors in Python: what a class must say, a name of its own, a function, and the rules for authors outside."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

import oodline as ol
from oodline.detectors.fitted import Fitted
from oodline.detectors.registry import _REGISTERED
from oodline.errors import ArtifactError, DetectorError, SettingError, UnknownNameError
from oodline.model.head import Head
from oodline.serve import create_app
from oodline.statistics import ClassMoments, Statistic
from oodline.testing import activations_of, check_detector, toy_image_guard, toy_loader, toy_problem


class Nearest(ol.Detector):
    """Says no more than it must to be fitted."""

    name = "nearest"
    needs = ol.Needs.FEATURES
    means: Fitted[Tensor]

    def __init__(self, *, power=2.0) -> None:  # a setting without a type, as people write them
        super().__init__()
        self.power = power

    def statistics(self, head: Head) -> dict[str, Statistic]:
        return {"features": ClassMoments()}

    def estimate(self, head: Head, features: ClassMoments) -> None:
        self.means = features.mean.float()

    def score(self, activations: ol.Activations) -> Tensor:
        return -(activations.features[:, None] - self.means).abs().pow(self.power).sum(2).amin(1)


class Largest(ol.Detector):
    """Says only name and needs, and scores."""

    name = "largest"
    needs = ol.Needs.LOGITS

    def score(self, activations: ol.Activations) -> Tensor:
        return activations.logits.amax(1)


def margin(activations: ol.Activations) -> Tensor:
    """Difference of the two largest logits."""
    best, second = activations.logits.topk(2).values.T
    return best - second


def a_class(**said: Any) -> type[ol.Detector]:
    said = {"name": "mine", "needs": ol.Needs.LOGITS, "score": lambda self, activations: None} | said
    return type("Mine", (ol.Detector,), {key: value for key, value in said.items() if value is not ...})


def arguments(self: Any, **settings: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"name": ...}, r"`Mine\.name` must be lowercase letters, digits and hyphens, such as 'my-score'; got None\."),
        ({"name": "My score"}, r"`Mine\.name` must be lowercase .*; got 'My score'\."),
        ({"name": 3}, r"`Mine\.name` must be lowercase .*; got 3\."),
        ({"needs": ...}, r"`Mine\.needs` must be what it reads, such as Needs\.LOGITS .*; got None\."),
        ({"needs": "logits"}, r"`Mine\.needs` must be .*; got 'logits'\."),
        ({"needs": ol.Needs(0)}, r"`Mine\.needs` must be .*; got <Needs: 0>\."),
        ({"paper": "ours"}, r"`Mine\.paper` must be Paper\(title, venue\), or left out; got 'ours'\."),
        ({"fitted_buffers": ("means",)}, r"`Mine` must declare what is fitted by annotations, .*`fitted_buffers`\."),
        (
            {"__annotations__": {"means": Fitted[int]}},
            r"`Mine\.means` must be declared as Fitted\[Float\[Tensor, \"C D\"\]\], .*; got <class 'int'>\.",
        ),
        (
            {"__annotations__": {"means": "Fitted[Float[Nowhere, 'C D']]"}},
            r"`Mine\.means` must be declared by names of its module; got Fitted\[Float\[Nowhere, 'C D'\]\]\.",
        ),
        ({"__init__": arguments}, r"the settings of Mine must be named one by one in __init__.*; got \*\*settings"),
    ],
)
def test_what_a_class_must_say_is_checked_when_it_is_made(said, message):
    with pytest.raises(DetectorError, match=message):
        a_class(**said)


def asking(*names: str) -> Any:
    return lambda self, head: {name: ClassMoments() for name in names}


def before_the_head(self: Any, statistics: Any, head: Head) -> None:
    pass


def of_two(self: Any, head: Head, features: ClassMoments, spread: ClassMoments) -> None:
    pass


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"statistics": asking("features"), "estimate": before_the_head},
            "`Mine.estimate` must take the head, then by name what `Mine.statistics` asks for: "
            "estimate(self, head, features); got estimate(self, statistics, head).",
        ),
        (
            {"estimate": before_the_head},
            "asks for: estimate(self, head); got estimate(self, statistics, head).",
        ),
        (
            {"statistics": asking("features"), "estimate": of_two},
            "asks for: estimate(self, head, features); got estimate(self, head, features, spread).",
        ),
        (
            {"statistics": asking("features", "moments"), "estimate": lambda self, head, features, k=1: None},
            "asks for: estimate(self, head, features, moments); got estimate(self, head, features, k=1).",
        ),
        ({"statistics": asking("features")}, "asks for: estimate(self, head, features); got none."),
        (
            {"statistics": asking("block.1"), "estimate": lambda self, head, **layers: None},
            "`Mine.statistics` must name what can be arguments of estimate, other than 'seen'; got 'block.1'.",
        ),
        ({"statistics": asking("seen"), "estimate": lambda self, head, seen: None}, "other than 'seen'; got 'seen'."),
    ],
)
def test_estimate_must_take_what_statistics_asks_for_before_a_pass_is_made(said, message):
    classifier, _ = toy_problem()
    with pytest.raises(DetectorError, match=re.escape(message)):
        a_class(**said)().fit(classifier, iter(()))


@pytest.mark.parametrize(
    "estimate",
    [
        lambda self, head, features, spread: self.take(features, spread),
        lambda self, head, *, spread, features=None: self.take(features, spread),
        lambda self, head, features, **others: self.take(features, *others.values()),
    ],
)
def test_estimate_is_given_each_statistic_by_its_name(estimate):
    taken: list[Any] = []
    classifier, loader = toy_problem()
    statistics = {"spread": ClassMoments(variance=True), "features": ClassMoments(by="all")}
    mine = a_class(
        estimate=estimate, statistics=lambda self, head: statistics, take=lambda self, *given: taken.extend(given)
    )
    mine().fit(classifier, loader)
    assert [t.key for t in taken] == [statistics["features"].key, statistics["spread"].key]
    assert [len(t.count) for t in taken] == [1, 3]


def test_the_network_is_needed_for_what_features_and_head_do_not_tell():
    told = ol.Needs.LOGITS | ol.Needs.FEATURES | ol.Needs.HEAD | ol.Needs.LINEAR_HEAD
    assert told == ol.Needs.FROM_FEATURES
    assert not a_class(needs=told)().needs_network
    for need in (ol.Needs.FEATURE_MAP, ol.Needs.INPUTS, ol.Needs.CLASSIFIER):
        member = a_class(needs=ol.Needs.LOGITS | need)()
        assert member.needs_network and ol.ReAct(scorer=member).needs_network
    assert a_class(layers=("block",))().needs_network


def test_a_common_base_may_leave_everything_open():
    class Base(ol.Rectifier):
        pass

    class Halved(Base):
        name = "halved"
        needs = ol.Needs.FEATURES | ol.Needs.HEAD

        def rectify(self, activations: ol.Activations) -> ol.Activations:
            return activations.replace(logits=activations.logits / 2)

    assert float(Halved(ol.MaxLogit())(activations_of(torch.tensor([[1.0, 3.0]])))) == 1.5


def test_a_setting_that_is_not_kept_is_named():
    class Forgetful(Largest):
        def __init__(self, *, power: float = 2.0) -> None:
            super().__init__()

    with pytest.raises(DetectorError, match=r"does not keep 'power'\. Write self\.power = power in __init__\."):
        _ = Forgetful().settings


@pytest.mark.parametrize("scores", [torch.zeros(2, 1), torch.zeros(()), torch.zeros(3), [0.0, 1.0]], ids=repr)
def test_scores_of_another_form_are_refused(scores):
    detector = ol.from_function(lambda activations: scores, name="odd", needs=ol.Needs.LOGITS)
    with pytest.raises(DetectorError, match=r"Odd\.score must return one floating-point number per sample, .*; got"):
        detector(activations_of(torch.eye(2)))


def test_a_registered_class_is_found_by_name_with_settings_and_in_others():
    with pytest.raises(UnknownNameError, match=r"unknown detector 'nearest'.* Register your own: oodline\.register"):
        ol.create_detector("nearest")
    assert ol.register(Nearest) is Nearest
    assert ol.create_detector("nearest,power=1.5").settings == {"power": 1.5}
    fused = ol.create_detector("fuse,detectors=energy+nearest:power=1.0")
    assert [type(d) for d in fused.detectors] == [ol.Energy, Nearest]
    assert type(ol.create_detector("react,scorer=nearest").scorer) is Nearest
    with pytest.raises(SettingError, match=r"'nearest' has no setting 'pow'\. It has: power\."):
        ol.create_detector("nearest,pow=1")


def test_a_class_that_refuses_a_setting_by_any_error_gives_a_setting_error():
    @ol.register
    class Picky(Nearest):
        name = "picky"

        def __init__(self, *, power: float = 2.0) -> None:
            super().__init__(power=power)
            if power < 1:
                raise ValueError("power is too small")

    with pytest.raises(SettingError, match=r"'picky' cannot be made with these settings: power is too small\."):
        ol.create_detector("picky,power=0.5")
    with pytest.raises(SettingError, match=r"`power` must be a number; got 'much'\."):
        ol.create_detector("picky,power=much")


def test_a_name_stands_for_one_detector_and_a_cell_may_run_twice():
    def cell(factor: float) -> type[ol.Detector]:
        class Twice(Largest):
            name = "twice"

            def score(self, activations: ol.Activations) -> Tensor:
                return factor * activations.logits.amax(1)

        return Twice

    ol.register(cell(1.0))
    ol.register(cell(2.0))
    assert float(ol.create_detector("twice")(activations_of(torch.eye(2)))[0]) == 2
    with pytest.raises(DetectorError, match=r"`name` must stand for one detector; got 'twice' for .*:Mine, and it"):
        ol.register(a_class(name="twice"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (a_class(name="energy"),),
            r"`name` must not be one that oodline uses itself; got 'energy'\. Choose",
        ),
        ((a_class(name="all"),), r"`name` must not be one that oodline uses itself; got 'all'"),
        (
            ("Mine", "package:Mine"),
            r"`name` must be lowercase letters, digits and hyphens, .*; got 'Mine'",
        ),
        (("mine", "package"), r"the home of 'mine' must be written 'package\.module:Class'.*; got 'package'\."),
        (("mine",), r"the home of 'mine' must be written .*; got None\."),
        ((Largest, "package:Largest"), r"`home` must be left out where a class is given, .*; got 'package:Largest'\."),
        ((torch.nn.Linear,), r"`detector` must be a subclass of oodline\.Detector with its own `score`; got <class"),
        ((ol.Detector,), r"`detector` must be a subclass of oodline\.Detector with its own `score`"),
        ((margin,), r"`detector` must be .*Make it one: from_function\(fn, name=\.\.\., needs=\.\.\.\)\."),
    ],
)
def test_what_cannot_be_registered(given, message):
    with pytest.raises(DetectorError, match=message):
        ol.register(*given)
    assert _REGISTERED == {}


def test_a_setting_without_a_default_cannot_be_registered():
    class Asks(Largest):
        def __init__(self, k: int) -> None:
            super().__init__()
            self.k = k

    with pytest.raises(DetectorError, match=r"every setting of Asks must have a default.*; got 'k' without one\."):
        ol.register(Asks)


def test_a_name_for_code_is_imported_when_it_is_used():
    ol.register("missing", "nothing_of_that_name:Mine")
    with pytest.raises(DetectorError, match=r"'missing' is registered as nothing_of_that_name:Mine, which cannot be"):
        ol.create_detector("missing")
    ol.register("square", "math:sqrt")
    with pytest.raises(DetectorError, match=r"`detector` must be a subclass of oodline\.Detector"):
        ol.create_detector("square")


def of_a_function() -> ol.Detector:
    return ol.from_function(margin, name="margin", needs=ol.Needs.LOGITS)


@pytest.mark.parametrize("make", [Nearest, Largest, of_a_function])
def test_it_does_what_every_detector_does(make, tmp_path):
    classifier, loader = toy_problem()
    detector = make()
    ol.fit([detector, ol.LINe()], classifier, loader)
    guard = ol.Guard(classifier, detector).calibrate(toy_loader(seed=1))
    images = loader[0][0]
    table = ol.evaluate([detector, ol.MSP()], classifier, loader, {"zeros": [torch.zeros(60, 4)]})
    assert 0 <= table.value(detector.name, "auroc", "zeros") <= 1
    assert torch.equal(guard(images).score, ol.score(detector, classifier, loader)[detector.name])

    path = tmp_path / "guard.safetensors"
    with pytest.raises(ArtifactError, match=r"is not registered, so a file could not say how to build it again"):
        guard.save(path)
    assert not path.exists()
    ol.register(detector)
    guard.save(path)
    loaded = ol.Guard.load(path, classifier)
    assert torch.equal(loaded(images).score, guard(images).score)
    _REGISTERED.clear()
    with pytest.raises(ArtifactError, match=f"guard.safetensors holds the detector '{detector.name}', which"):
        ol.Guard.load(path, classifier)


def test_a_member_of_a_file_must_be_registered_too(tmp_path):
    classifier, loader = toy_problem()
    ol.register(Nearest)
    fused = ol.Fuse(["energy", Nearest()]).fit(classifier, loader)
    path = ol.Guard(classifier, fused).calibrate(toy_loader(seed=1)).save(tmp_path / "guard.safetensors")
    assert [type(d) for d in ol.Guard.load(path, classifier).detector.detectors] == [ol.Energy, Nearest]
    _REGISTERED.clear()
    with pytest.raises(ArtifactError, match=r"guard\.safetensors holds the detector 'nearest', which this version"):
        ol.Guard.load(path, classifier)


def test_a_function_gives_its_own_scores():
    detector = ol.from_function(margin, name="margin", needs=ol.Needs.LOGITS)
    activations = activations_of(torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 0.0]]))
    assert detector(activations).tolist() == [2.0, 0.0]
    assert detector.__doc__ == margin.__doc__
    assert (detector.name, detector.needs, detector.paper, detector.fitted) == ("margin", ol.Needs.LOGITS, None, True)
    for given, message in (
        ({"fn": 3}, r"`fn` must be a function from Activations to scores \(N,\); got 3\."),
        ({"fn": ol.Energy}, r"`fn` must be a function"),
        ({"name": "my margin"}, r"`name` must be lowercase letters"),
        ({"needs": None}, r"`Margin\.needs` must be what it reads"),
    ):
        with pytest.raises(DetectorError, match=message):
            ol.from_function(**({"fn": margin, "name": "margin", "needs": ol.Needs.LOGITS} | given))


def test_it_is_served_without_a_paper():
    app = create_app(toy_image_guard(Nearest()))

    async def ask() -> dict[str, Any]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/v1/info")).json()

    detector = asyncio.run(ask())["detector"]
    assert detector == {"name": "nearest", "settings": {"power": 2.0}, "paper": None}


@pytest.mark.parametrize(
    "detector",
    [Nearest, Nearest(power=1.0), Largest, of_a_function(), "knn,k=3"],
    ids=["class", "settings", "least", "function", "reference"],
)
def test_a_sound_detector_keeps_every_rule(detector):
    check_detector(detector)
    assert _REGISTERED == {}


def from_batch(self: Nearest, activations: ol.Activations) -> Tensor:
    scores = Nearest.score(self, activations)
    return scores - scores.mean()


def in_place(self: Nearest, activations: ol.Activations) -> Tensor:
    return -activations.features.sub_(self.means[0]).norm(dim=1)


def by_python(self: Nearest, activations: ol.Activations) -> Tensor:
    return torch.tensor([max(row) for row in activations.logits.tolist()])


def without_state(self: Nearest, head: Head, features: ClassMoments) -> None:
    Nearest.estimate(self, head, features)
    self.scale = self.means.norm()


def other_setting(self: Nearest, *, power: float = 2.0) -> None:
    Nearest.__init__(self, power=power)
    self.power = power + 1


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "sign": (
        {"score": lambda self, activations: -Nearest.score(self, activations)},
        "Samples like the training data score higher than others. Here the AUROC on the toy problem is 0.* "
        "A higher score must mean more in-distribution: return the negative",
    ),
    "batch": ({"score": from_batch}, "A sample's score is the same alone, .*Compute each score from its own sample"),
    "in place": ({"score": in_place}, "Scoring changes neither .* Here scoring changes the features. Use no operation"),
    "noise": (
        {"score": lambda self, activations: torch.rand(len(activations))},
        "The same data gives the same state, .*Draw nothing at random in score",
    ),
    "NaN": (
        {"score": lambda self, activations: activations.features.sum(1) / 0 - torch.inf},
        "gives N finite floating-point numbers. Here 7 of 7 scores are NaN",
    ),
    "integers": (
        {"score": lambda self, activations: activations.predicted},
        r"; got torch.int64 \(7,\)",
    ),
    "shape": (
        {"score": lambda self, activations: activations.logits},
        r"DetectorError: Mine.score must .*; got torch.float32 \(7, 3\)",
    ),
    "mistake": ({"score": lambda self, activations: activations.logit}, "Here AttributeError: .* no attribute 'logit'"),
    "setting": ({"__init__": other_setting}, "given to its name, make the same .*'power' was 3.0 and came back as 4.0"),
    "state": (
        {"estimate": without_state, "score": lambda self, a: Nearest.score(self, a) * self.scale},
        "`state_dict` holds all that a fit changes.*'Mine' object has no attribute 'scale'",
    ),
    "graph": (
        {"score": by_python},
        "It becomes one graph with the classifier.* say why it cannot be one: not_exportable",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_rule_is_named_with_the_remedy(kind):
    changes, message = BROKEN[kind]
    with pytest.raises(AssertionError, match=rf"^Mine breaks a rule: .*{message}"):
        check_detector(type("Mine", (Nearest,), {"name": "mine", **changes}))
    assert _REGISTERED == {}


def test_what_is_no_detector_cannot_be_checked():
    with pytest.raises(DetectorError, match="`detector` must be a subclass"):
        check_detector(margin)
    with pytest.raises(DetectorError, match="`name` must not be one that oodline uses itself"):
        check_detector(a_class(name="knn"))


class Forgetful(Nearest):
    """Does not call the `__init__` of its base."""

    name = "forgetful"

    def __init__(self, *, power=2.0) -> None:
        self.power = power


def test_an_init_that_does_not_call_that_of_its_base_does_no_harm():
    classifier, loader = toy_problem()
    forgetful, nearest = Forgetful(power=3.0).fit(classifier, loader), Nearest(power=3.0).fit(classifier, loader)
    assert forgetful.settings == {"power": 3.0}
    activations = classifier(loader[0][0])
    assert torch.equal(forgetful(activations), nearest(activations))
