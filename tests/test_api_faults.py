"""A wrong argument of a public callable ends in an `OodlineError`, whatever it is and whichever argument it is."""

import inspect
import warnings

import jaxtyping
import numpy as np
import pytest
import torch

import oodline as ol
from oodline._util.arguments import hints_of
from oodline.detectors.catalog import CATALOG, detector_class
from oodline.errors import InputError, NotFittedError, OodlineError, SettingError, UnknownNameError
from oodline.scoring.calibration import calibrate
from oodline.scoring.class_calibration import calibrate_by_class
from oodline.testing import toy_loader, toy_problem
from oodline.tuning.search import PSEUDO_OUTLIERS

WRONG = {
    "a string": "5",
    "a fraction": 5.5,
    "a truth value": True,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "below 0": -1,
    "a huge integer": 10**400,
    "None": None,
    "bytes": b"5",
    "a list": [1, "two"],
    "an empty list": [],
    "a dict": {"a": 1},
    "a tensor": torch.ones(2, 2),
    "a class": ol.KNN,
    "an object": object(),
    "a function": len,
    "an array of objects": np.array([object()]),
}
RECORDS = {
    "Activations": "made by a classifier",
    "AnswerMonitor": "made by a stream; tests/scoring/test_answers.py",
    "AnswerStream": "made by a guard",
    "BoxClassifier": "tests/model/test_boxes.py",
    "Boxes": "tests/model/test_boxes.py",
    "FoundBoxes": "made by an adapter",
    "Lowest": "tests/model/test_rows.py",
    "LowestMean": "tests/scoring/test_answers.py",
    "Mean": "no argument",
    "NoHead": "made by an adapter",
    "Pixels": "tests/model/test_rows.py",
    "Places": "made by a classifier",
    "RowClassifier": "tests/model/test_rows.py",
    "RowVerdict": "made by a guard",
    "Tokens": "tests/model/test_tokens.py",
    "TextPreprocessing": "tests/preprocessing/test_text.py",
    "evaluate_rows": "tests/evaluation/test_evaluate_rows.py",
    "Diagnosis": "made by `doctor`",
    "MethodDescription": "made by `describe_method`",
    "PrecisionChange": "made by `precision_change`",
    "Calibration": "made by `Guard.calibrate`",
    "Candidate": "made by `tune`",
    "ClassCalibration": "made by `Guard.calibrate`",
    "DriftReport": "made by a monitor",
    "Explanation": "made by a guard",
    "FeatureClassifier": "made by `from_features`",
    "FitError": "an error",
    "FitResult": "made by `fit`",
    "FittedGuards": "made by `fit_guards`",
    "LayeredHead": "made by a classifier",
    "LinearHead": "made by a classifier",
    "Needs": "an enumeration",
    "Paper": "a record of three strings",
    "Preprocessing": "checked by pydantic",
    "Scores": "made by a pass",
    "Table": "made by `evaluate`",
    "Tuned": "made by `tune`",
    "Verdict": "made by a guard",
    "Detector": "a base class",
    "Rectifier": "a base class",
    "Torchrun": "has no argument",
    "Local": "has no argument",
    "__version__": "a string",
    "Fitted": "an annotation",
    "LabelErrors": "made by `find_label_errors`",
    "register": "tests/detectors/test_own.py",
}
"""Public names that nobody calls with arguments of their own, and why."""


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Without the checks of shapes that this suite adds to every annotated function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def attempt(call):
    """The error that a call ends in, or None; anything but an `OodlineError` is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except OodlineError as error:
            return error
    return None


@pytest.mark.parametrize("name", CATALOG)
def test_every_setting_of_a_detector_is_checked(name):
    build = detector_class(name)
    settings = inspect.signature(build).parameters
    assert set(hints_of(build.__init__)) == set(settings), "an annotation cannot be resolved"
    for setting in settings:
        for wrong in WRONG.values():
            error = attempt(lambda setting=setting, wrong=wrong: build(**{setting: wrong}))
            if wrong is not None and not isinstance(wrong, str):
                assert error is None or f"`{setting}`" in str(error), error
        assert attempt(lambda setting=setting: build(**{setting: WRONG["an object"]})) is not None, setting
    with pytest.raises(TypeError, match="nothing_like_it"):
        build(nothing_like_it=1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ol.KNN(k="5"), "`k` must be an integer of at least 1; got '5'."),
        (lambda: ol.KNN(k=5.5), "`k` must be an integer of at least 1; got 5.5."),
        (lambda: ol.KNN(k=True), "`k` must be an integer of at least 1; got True."),
        (lambda: ol.KNN(k=0), "`k` must be an integer of at least 1; got 0."),
        (lambda: ol.LINe(p_a="0.1"), "`p_a` must be a number from 0 to below 1; got '0.1'."),
        (lambda: ol.LINe(p_a=float("nan")), "`p_a` must be a finite number from 0 to below 1; got nan."),
        (lambda: ol.create_detector("line,p_a=1"), "`p_a` must be a number from 0 to below 1; got 1."),
        (
            lambda: ol.ReAct(scorer=3),
            "`scorer` must be a Detector; got 3. A detector is an object such as LINe(), or a name such as 'line'.",
        ),
        (lambda: ol.NECO(times_max_logit=1), "`times_max_logit` must be True or False; got 1."),
    ],
)
def test_the_sentence_names_the_setting_the_range_and_the_value(build, message):
    with pytest.raises(SettingError) as error:
        build()
    assert str(error.value) == message


def test_numbers_of_numpy_and_names_of_detectors_are_taken():
    settings = ol.KNN(k=np.int64(5)).settings | ol.LINe(p_a=np.float32(0.5), p_w=0).settings
    assert [settings[key] for key in ("k", "p_a", "p_w")] == [5, 0.5, 0.0]
    assert [type(settings[key]) for key in ("k", "p_a", "p_w")] == [int, float, float]
    assert repr(ol.ReAct(scorer="dice,p=0.5")) == repr(ol.ReAct(scorer=ol.DICE(p=0.5)))
    assert ol.ODIN(std=np.ones(3)).settings["std"] == (1.0, 1.0, 1.0)
    assert ol.LINe(clip=np.inf).settings["clip"] == float("inf")


class Public:
    """Valid arguments of the public callables, from which one at a time is replaced."""

    def __init__(self, folder):
        self.classifier, self.loader = toy_problem()
        self.held_out = toy_loader(seed=1)
        self.inputs = self.held_out[0][0][:4]
        self.guard = ol.Guard(self.classifier, ol.Energy()).calibrate(self.held_out)
        explaining = ol.LINe().fit(self.classifier, self.loader)
        self.explaining = ol.Guard(self.classifier, explaining).calibrate(self.held_out)
        self.file = folder / "guard.safetensors"
        self.guard.save(self.file)
        self.table = ol.evaluate("energy", self.classifier, self.held_out, {"a": self.inputs, "b": self.inputs})
        self.calibration = calibrate(torch.arange(99.0))

    def cases(self):
        """Callable and its arguments by name."""
        c, loader, held_out = self.classifier, self.loader, self.held_out
        monitor = ol.DriftMonitor(self.calibration)
        by_class = calibrate_by_class(torch.arange(80.0), torch.arange(80) % 2, 2)
        features = torch.randn(12, 5).numpy()
        return {
            "Classifier": (
                ol.Classifier,
                {"model": c.model, "head": "2", "feature_map": None, "binary": False, "task": None},
            ),
            "Classifier.zero_shot": (
                ol.Classifier.zero_shot,
                {
                    "image_encoder": torch.nn.Flatten(),
                    "text_features": torch.eye(3),
                    "scale": 5.0,
                    "names": list("abc"),
                },
            ),
            "TextHead": (ol.TextHead, {"text_features": torch.eye(3), "scale": 5.0, "bias": 1.0}),
            "ZeroShot": (
                ol.ZeroShot,
                {"image_encoder": torch.nn.Flatten(), "head": ol.TextHead(torch.eye(3)), "names": list("abc")},
            ),
            "Classifier.load": (ol.Classifier.load, {"reference": "python:none.py:build"}),
            "Classifier.__call__": (c, {"inputs": self.inputs}),
            "Classifier.stream": (lambda loader: list(c.stream(loader)), {"loader": loader}),
            "Detector.__call__": (ol.Energy(), {"activations": c(self.inputs)}),
            "Detector.fit": (
                ol.LINe().fit,
                {"classifier": c, "loader": loader, "engine": ol.Local(), "progress": False},
            ),
            "Detector.preset": (ol.LINe.preset, {"name": "cifar10-densenet100"}),
            "DriftMonitor": (
                ol.DriftMonitor,
                {"calibration": self.calibration, "alpha": 0.01, "window": 500, "seed": 0},
            ),
            "DriftMonitor.update": (
                monitor.update,
                {"scores": torch.zeros(2), "predicted": torch.zeros(2).long()},
            ),
            "Calibration.p_value": (self.calibration.p_value, {"scores": torch.ones(2)}),
            "Calibration.is_ood": (self.calibration.is_ood, {"scores": torch.ones(2)}),
            "ClassCalibration.p_value": (
                by_class.p_value,
                {"scores": torch.ones(2), "predicted": torch.zeros(2).long()},
            ),
            "ClassCalibration.is_ood": (
                by_class.is_ood,
                {"scores": torch.ones(2), "predicted": torch.zeros(2).long()},
            ),
            "Guard": (
                ol.Guard,
                {
                    "classifier": c,
                    "detector": ol.Energy(),
                    "calibration": self.calibration,
                    "class_names": ["a", "b", "c"],
                    "preprocessing": None,
                    "neurons": None,
                },
            ),
            "Guard.__call__": (self.guard, {"inputs": self.inputs}),
            "Guard.calibrate": (
                ol.Guard(c, ol.Energy()).calibrate,
                {"loader": held_out, "false_alarm": 0.05, "by": "all", "keep_inputs": 0, "progress": False},
            ),
            "Guard.calibrate/tpr": (ol.Guard(c, ol.Energy()).calibrate, {"loader": held_out, "tpr": 0.95}),
            "Guard.explain": (self.explaining.explain, {"inputs": self.inputs, "top": 8}),
            "Guard.load": (
                ol.Guard.load,
                {"path": self.file, "classifier": c, "detector": "energy", "class_names": None},
            ),
            "Guard.save": (self.guard.save, {"path": self.file}),
            "Guard.to": (self.guard.to, {"device": "cpu"}),
            "Neurons": (ol.Neurons, {"samples": 5}),
            "Ray": (ol.Ray, {"workers": 2, "block": 3, "folder": None}),
            "Table.value": (self.table.value, {"detector": "energy", "metric": "auroc", "column": "mean"}),
            "Table.to_markdown": (self.table.to_markdown, {"metric": "auroc"}),
            "find_label_errors": (
                ol.find_label_errors,
                {"classifier": self.classifier, "loader": self.loader, "power": 4.0, "threshold": 0.03, "compare": 100},
            ),
            "benjamini_hochberg": (ol.benjamini_hochberg, {"p_values": torch.tensor([0.1, 0.2]), "fdr": 0.1}),
            "create_detector": (ol.create_detector, {"reference": "line"}),
            "describe_method": (ol.describe_method, {"name": "line"}),
            "doctor": (ol.doctor, {"classifier": c, "loader": None, "held_out": None, "false_alarm": 0.05}),
            "precision_change": (
                ol.precision_change,
                {"classifier": c, "inputs": loader[0][0][:3], "detectors": ol.Energy()},
            ),
            "default": (ol.default, {"classifier": c}),
            "default_detector": (ol.default_detector, {"classifier": c}),
            "from_function": (ol.from_function, {"fn": len, "name": "mine", "needs": ol.Needs.LOGITS}),
            "evaluate": (
                ol.evaluate,
                {
                    "detectors": ol.Energy(),
                    "classifier": c,
                    "id_loader": held_out,
                    "ood_loaders": {"a": self.inputs},
                    "csid_loaders": None,
                    "groups": {"near": ["a"]},
                    "convention": "exact",
                    "bootstrap": 10,
                    "progress": False,
                },
            ),
            "fit": (
                ol.fit,
                {"detectors": ol.LINe(), "classifier": c, "loader": loader, "engine": ol.Local(), "progress": False},
            ),
            "finetune": (
                ol.finetune,
                {
                    "classifier": c,
                    "train": loader,
                    "recipe": "energy-margin",
                    "epochs": 1,
                    "auxiliary": [self.inputs],
                    "held_out": held_out,
                    "accuracy_lost": 0.02,
                    "learning_rate": 0.01,
                    "seed": 0,
                    "dtype": "float32",
                    "progress": False,
                },
            ),
            "fit_guards": (
                ol.fit_guards,
                {
                    "detectors": ol.Energy(),
                    "classifier": c,
                    "loader": loader,
                    "held_out": held_out,
                    "false_alarm": 0.05,
                    "by": "all",
                    "neurons": 0,
                    "class_names": None,
                    "preprocessing": None,
                    "label_names": None,
                    "keep_inputs": 0,
                    "engine": ol.Local(),
                    "progress": False,
                },
            ),
            "from_features": (
                ol.from_features,
                {
                    "features": features,
                    "labels": np.arange(12) % 3,
                    "logits": None,
                    "head": (np.ones((3, 5)), np.zeros(3)),
                    "head_name": None,
                    "num_classes": 3,
                    "task": "multiclass",
                    "batch_size": 4,
                },
            ),
            "load_model": (
                ol.load_model,
                {"reference": "python:none.py:build", "weights": None, "preprocessing": None},
            ),
            "score": (
                ol.score,
                {"detectors": ol.Energy(), "classifier": c, "loader": held_out, "engine": None, "progress": False},
            ),
            "split": (ol.split, {"loader": held_out, "fraction": 0.2}),
            "tune": (
                ol.tune,
                {
                    "detector": ol.KNN(k=10),
                    "classifier": c,
                    "fit_loader": [(held_out[0][0][:30], held_out[0][1][:30])],
                    "held_out_loader": loader,
                    "grid": {"k": [1, 5]},
                    "pseudo_outliers": PSEUDO_OUTLIERS,
                    "limit": 20,
                    "seed": 0,
                    "progress": False,
                },
            ),
        }


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return Public(tmp_path_factory.mktemp("faults"))


NAMES = """
Classifier, Classifier.load, Classifier.__call__, Classifier.stream, Detector.__call__, Detector.fit,
Detector.preset, DriftMonitor, DriftMonitor.update, Calibration.p_value, Calibration.is_ood,
ClassCalibration.p_value, ClassCalibration.is_ood, Guard, Guard.__call__, Guard.calibrate, Guard.explain,
Guard.load, Guard.save, Guard.to, Neurons, Ray, Table.value, Table.to_markdown, benjamini_hochberg, find_label_errors,
create_detector, describe_method, doctor, precision_change, default, evaluate,
finetune, fit, fit_guards, from_features, load_model, score, split, tune,
Guard.calibrate/tpr default_detector from_function Classifier.zero_shot TextHead ZeroShot
""".replace(",", "").split()


def test_every_public_callable_is_tried(public):
    tried = {name.partition(".")[0] for name in public.cases()}
    detectors = {detector_class(name).__name__ for name in CATALOG}
    left = {n for n in ol.__all__ if n not in tried | detectors | RECORDS.keys() and not n.endswith("Warning")}
    assert not left
    assert set(NAMES) == public.cases().keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_checked(public, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what names a file that is written goes here
    call, arguments = public.cases()[name]
    if name not in ("Classifier.load", "load_model"):
        assert attempt(lambda: call(**arguments)) is None
    for argument in arguments:
        ends = {}
        for what, wrong in WRONG.items():
            if argument == "bootstrap" and what == "a huge integer":
                continue  # that many resamples are what was asked for
            call, arguments = public.cases()[name]
            try:
                ends[what] = attempt(lambda: call(**{**arguments, argument: wrong}))  # noqa: B023
            except Exception as error:
                pytest.fail(f"{name}({argument}={wrong!r}) ends in {type(error).__name__}: {error}")
        assert ends["an object"] is not None, f"{name} takes any {argument}"


def test_detectors_are_taken_one_by_one_in_a_mapping_and_from_a_generator():
    classifier, loader = toy_problem()
    given = [ol.LINe(), ol.KNN(k=5)]
    for detectors in (given[0], given, iter(given), {"one": given[0], "other": ol.LINe(p_a=0.5)}):
        result = ol.fit(detectors, classifier, loader)
        names = (
            ["one", "other"] if isinstance(detectors, dict) else ["line"] if detectors is given[0] else ["line", "knn"]
        )
        assert list(result.detectors) == list(result.seconds) == names and not result.failures
        assert next(iter(result.detectors.values())) is given[0]
        assert all(detector.fitted for detector in result.detectors.values())
    expected = ol.score(given[0], classifier, loader)["line"]
    for detectors, name in (({"mine": given[0]}, "mine"), (iter(given), "line"), (tuple(given), "line")):
        assert torch.equal(ol.score(detectors, classifier, loader)[name], expected)
    assert list(ol.evaluate(["energy", "msp"], classifier, loader, {"a": loader}).cells) == ["energy", "msp"]
    guards = ol.fit_guards({"a": ol.LINe(), "b": ol.LINe(p_a=0.5)}, classifier, loader)
    assert list(guards.artifact.detectors) == ["a", "b"]


TAKES_DETECTORS = {
    "fit": lambda given, c, loader: ol.fit(given, c, loader).detectors,
    "fit_guards": lambda given, c, loader: ol.fit_guards(given, c, loader).artifact.detectors,
    "score": lambda given, c, loader: ol.score(given, c, loader),
    "evaluate": lambda given, c, loader: ol.evaluate(given, c, loader, {"a": loader}).cells,
    "finetune": lambda given, c, loader: (
        ol.finetune(c, loader, "cross-entropy", epochs=1, test=loader, ood={"a": loader}, detectors=given)
        .comparison.tables["before"]
        .cells
    ),
    "precision_change": lambda given, c, loader: ol.precision_change(c, loader[0][0][:5], given).scores,
}


def test_a_name_with_settings_stands_for_a_detector_wherever_detectors_are_taken():
    public = [getattr(ol, name) for name in ol.__all__]
    takes = {f.__name__ for f in public if inspect.isfunction(f) and "detectors" in inspect.signature(f).parameters}
    assert takes - {"evaluate_rows"} == TAKES_DETECTORS.keys()  # of pixels: tests/evaluation/test_evaluate_rows.py
    classifier, loader = toy_problem()
    expected = {
        "energy": ol.score(ol.Energy(temperature=2), classifier, loader)["energy"],
        "react": ol.score(ol.ReAct(clip=1.0).fit(classifier, loader), classifier, loader)["react"],
    }
    names = ["energy,temperature=2", "react,clip=1.0"]
    for use, call in TAKES_DETECTORS.items():
        assert list(call(names[0], classifier, loader)) == ["energy"], use
        assert list(call({"mine": names[0], "other": ol.Energy()}, classifier, loader)) == ["mine", "other"]
        for given in (names, tuple(names), iter(names)) if use.startswith("fit") else ([names[0], ol.MSP()],):
            made = call(given, classifier, loader)
            assert list(made) == (["energy", "react"] if use.startswith("fit") else ["energy", "msp"])
            if use.startswith("fit"):
                for name, scores in ol.score(made, classifier, loader).items():
                    assert torch.equal(scores, expected[name])
        with pytest.raises(UnknownNameError, match="Did you mean 'energy'"):
            call(["enregy"], classifier, loader)
        with pytest.raises(SettingError, match="`temperature` must be"):
            call({"mine": "energy,temperature=0"}, classifier, loader)
    assert torch.equal(ol.score(names[0], classifier, loader)["energy"], expected["energy"])
    for use in ("score", "evaluate", "precision_change"):
        with pytest.raises(NotFittedError, match="LINe is not fitted"):
            TAKES_DETECTORS[use]("line,p_a=0.5", classifier, loader)


@pytest.mark.parametrize("use", [ol.fit, ol.score, ol.fit_guards])
def test_two_detectors_of_one_name_are_refused_by_all_alike(use):
    with pytest.raises(SettingError, match="must have different names; got 2 that share 'line'"):
        use([ol.LINe(), ol.LINe(p_a=0.5)], *toy_problem())


def test_arrays_and_single_batches_are_taken():
    classifier, [(inputs, labels)] = toy_problem()
    expected = ol.score("energy", classifier, [inputs])["energy"]
    array = inputs.numpy()
    for loader in (inputs, array, [array], [(array, labels.numpy())], [array.astype(np.float64)]):
        torch.testing.assert_close(ol.score("energy", classifier, loader)["energy"], expected)
    assert torch.equal(classifier(array).logits, classifier(inputs).logits)
    guard = ol.Guard(classifier, "energy").calibrate(array, 0.05)
    assert torch.equal(guard(array).score, guard(inputs).score)


def test_a_detector_is_not_called_on_images():
    with pytest.raises(InputError, match=r"detector\(classifier\(inputs\)\), or Guard\(classifier, detector\)"):
        ol.Energy()(torch.zeros(2, 3, 8, 8))


def test_a_guard_moves_with_its_numbers():
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, ol.LINe().fit(classifier, loader)).calibrate(toy_loader(seed=1))
    before = guard(loader[0][0])
    for device in ("cpu", torch.device("cpu")):
        assert guard.to(device) is guard
    assert guard.device == torch.device("cpu")
    assert guard.detector.threshold.dtype == torch.float32
    assert torch.equal(guard(loader[0][0]).p_value, before.p_value)
    with pytest.raises(SettingError, match="the device 'nowhere' cannot be used"):
        guard.to("nowhere")
    assert torch.equal(guard(loader[0][0]).p_value, before.p_value)


def test_a_detector_is_fitted_by_an_engine():
    classifier, loader = toy_problem()
    passes = []

    class Counting(ol.Local):
        def fill(self, *given, **named):
            passes.append(named["task"])
            super().fill(*given, **named)

    assert ol.LINe().fit(classifier, loader, engine=Counting()).fitted
    assert passes == ["fitting"]
