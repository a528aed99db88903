"""A guard goes to MLflow's file store and comes back, as a guard and as a function."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import oodline as ol
from oodline.errors import ArtifactError, DataError, InputError, MismatchError
from oodline.testing import toy_loader, toy_problem

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType:UserWarning"),  # within MLflow
]

CLASSIFIER, TRAIN = toy_problem()


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A guard, and where it was logged with its graph."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)
        import mlflow

        from oodline.integrations.mlflow import log_guard

        mlflow.set_tracking_uri((folder / "runs").as_uri())
        detector = ol.KNN(k=3).fit(CLASSIFIER, TRAIN)
        guard = ol.Guard(CLASSIFIER, detector, class_names=("a", "b", "c")).calibrate(toy_loader(seed=1))
        with mlflow.start_run():
            yield guard, log_guard(guard, "toys", example=TRAIN[0][0][:2]).model_uri
        mlflow.set_tracking_uri("")


def test_a_guard_comes_back(logged):
    from oodline.integrations.mlflow import load_guard

    guard, uri = logged
    again, x = load_guard(uri, CLASSIFIER), toy_loader(seed=2)[0][0]
    torch.testing.assert_close(again(x).p_value, guard(x).p_value, rtol=0, atol=0)
    assert again.class_names == ("a", "b", "c")
    with pytest.raises(MismatchError, match="other weights"):
        load_guard(uri, toy_problem(seed=4)[0])


def test_its_graph_is_a_function(logged):
    import mlflow.pyfunc

    guard, uri = logged
    function, x = mlflow.pyfunc.load_model(uri), toy_loader(seed=2)[0][0]
    found, verdict = function.predict(x.double().numpy()), guard(x)
    np.testing.assert_array_equal(found["is_ood"], verdict.is_ood.numpy())
    np.testing.assert_allclose(found["score"], verdict.score.numpy(), atol=1e-5)
    np.testing.assert_array_equal(function.predict({"inputs": x.numpy()})["label"], verdict.label.numpy())
    with pytest.raises(InputError, match="the input must have inputs; got no inputs"):
        function.predict({"x": x.numpy()})
    for wrong, sentence in [
        (x[:, :3], r"shape \(N, 4\); got \(60, 3\)"),
        (x[0], r"got \(4,\)"),
        ([["a"]], "be numbers"),
    ]:
        with pytest.raises(InputError, match=sentence):
            function.predict({"inputs": wrong})


def test_a_model_of_another_flavour_is_not_replaced(logged, tmp_path):
    from oodline.integrations.mlflow import save_model

    (tmp_path / "MLmodel").write_text("flavors:\n  sklearn:\n    data: model.skops\n")
    (tmp_path / "model.skops").write_text("weights")
    with pytest.raises(DataError, match="it holds a model of sklearn, which would be lost"):
        save_model(logged[0], tmp_path)
    (tmp_path / "MLmodel").write_text("- what\n")
    with pytest.raises(DataError, match="it holds a model of an unknown flavour"):
        save_model(logged[0], tmp_path)
    assert (tmp_path / "model.skops").read_text() == "weights"


def test_a_model_folder_without_a_graph_is_for_load_guard_alone(logged, tmp_path):
    from mlflow.models import Model

    from oodline.integrations.mlflow import load_guard, save_model

    guard, _ = logged
    for _ in range(2):  # the second replaces the first
        save_model(guard, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "MLmodel", "guard.safetensors", "python_env.yaml", "requirements.txt",
    ]  # fmt: skip
    assert list(Model.load(str(tmp_path / "model")).flavors) == ["oodline"]
    assert load_guard(str(tmp_path / "model"), CLASSIFIER).detector.name == "knn"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"is not a model that log_guard logged: it has no guard.safetensors"):
        load_guard(str(tmp_path / "empty"), CLASSIFIER)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_guard("models:/none/1", CLASSIFIER)


def test_without_mlflow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "oodline.integrations.mlflow", raising=False)
    with pytest.raises(ImportError, match=r"oodline\[mlflow\]"):
        import oodline.integrations.mlflow  # noqa: F401
