"""What the service says is what the guard says, for one image and for many, alone and in a crowd."""

import asyncio
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import pytest
import torch
from fastapi import Depends, FastAPI
from PIL import Image

import oodline as ol
from oodline.errors import InputError, NotFittedError, SettingError
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.serve import ServeSettings, create_app, verdicts
from oodline.testing import toy_image_guard

PNG = {"content-type": "image/png"}


def by_hand(guard, content):
    return guard(guard.preprocessing(Image.open(BytesIO(content))).unsqueeze(0)).rows()[0]


def same(found, expected):
    """Equal, but for what a batch of another size rounds differently."""
    return found == pytest.approx(expected, abs=1e-5)


def test_a_multi_label_guard_names_the_labels_that_apply(guard, serving, picture):
    classifier = ol.Classifier(guard.classifier.model, task="multilabel")
    several = ol.Guard(
        classifier, ol.JointEnergy(), class_names=guard.class_names, preprocessing=guard.preprocessing
    ).calibrate([torch.rand(30, 3, 8, 8)])
    content = picture("yellow")
    [verdict] = serving(several).post("/v1/predict", content=content, headers=PNG).json()["verdicts"]
    assert verdict == {"name": None, **by_hand(several, content)}
    assert {"red", "green"} <= set(verdict["label_names"])


def test_an_image_as_the_body_is_judged_as_by_the_guard(client, guard, picture):
    for colour in ("red", "green", "blue", "noise"):
        for kind in ("PNG", "JPEG", "WEBP", "BMP"):
            content = picture(colour, (20, 12), kind)
            answer = client.post("/v1/predict", content=content, headers={"content-type": f"image/{kind.lower()}"})
            assert answer.status_code == 200
            [verdict] = answer.json()["verdicts"]
            assert verdict == {"name": None, **by_hand(guard, content)}
            assert verdict["is_ood"] == (colour == "noise")
            if colour != "noise":
                assert verdict["class_name"] == colour


def test_the_beginning_of_a_file_says_what_it_is_and_not_its_content_type(client, picture):
    for kind in ("image/jpeg", "image/x-unknown", "application/octet-stream", "IMAGE/PNG; charset=x"):
        answer = client.post("/v1/predict", content=picture("blue"), headers={"content-type": kind})
        assert answer.json()["verdicts"][0]["class_name"] == "blue"


def test_a_form_of_several_images_is_answered_in_order_with_names(client, guard, picture):
    colours = ["blue", "noise", "red", "red", "green"]
    files = [("images", (f"{i}.png", picture(c), "image/png")) for i, c in enumerate(colours)]
    found = client.post("/v1/predict", files=files).json()["verdicts"]
    assert [row["name"] for row in found] == [f"{i}.png" for i in range(5)]
    for row, colour in zip(found, colours, strict=True):
        assert same({k: v for k, v in row.items() if k != "name"}, by_hand(guard, picture(colour)))
    [alone] = client.post("/v1/predict", files={"image": picture("green")}, data={"note": "x"}).json()["verdicts"]
    assert alone["class_name"] == "green"


def test_one_bad_image_of_several_gets_its_problem_and_the_others_their_verdict(serving, picture, metric):
    client = serving()
    files = [("images", ("a", picture("red"))), ("images", ("b", picture("red")[:40])), ("images", ("c", b"text"))]
    answer = client.post("/v1/predict", files=files)
    assert answer.status_code == 200
    good, truncated, text = answer.json()["verdicts"]
    assert good["class_name"] == "red"
    assert set(truncated) == {"name", "problem"}
    assert truncated["problem"]["type"] == "urn:oodline:problem:unreadable-image"
    assert text["problem"]["status"] == 415
    assert metric(client, 'oodline_rejections_total{reason="unreadable-image"}') == 1
    assert metric(client, 'oodline_rejections_total{reason="unsupported-type"}') == 1


def test_an_image_that_spoils_a_batch_spoils_it_for_itself_alone(guard, serving, picture):
    class Picky(ol.Guard):
        def __call__(self, inputs):
            if bool((inputs[:, 2].mean((1, 2)) > 0.9).any()):  # blue
                raise ol.errors.InputError("blue is refused.")
            return super().__call__(inputs)

    picky = Picky(guard.classifier, guard.detector, guard.calibration, preprocessing=guard.preprocessing)
    client = serving(picky)
    colours = ["red", "blue", "green", "blue"]
    found = client.post("/v1/predict", files=[("images", picture(c)) for c in colours]).json()["verdicts"]
    assert ["problem" in row for row in found] == [False, True, False, True]
    assert found[1]["problem"]["type"] == "urn:oodline:problem:refused-by-classifier"
    assert found[1]["problem"]["detail"] == "blue is refused."
    assert client.post("/v1/predict", content=picture("blue"), headers=PNG).status_code == 422


def test_many_at_once_are_judged_in_batches_and_each_gets_its_own_verdict(held, serving, picture, metric):
    client = serving(held, max_batch=8)
    colours = ["red", "green", "blue", "noise"] * 8
    held.gate.clear()
    with ThreadPoolExecutor(32) as pool:
        waiting = [
            pool.submit(client.post, "/v1/predict", content=picture(c), headers={**PNG, "x-request-id": f"{i}"})
            for i, c in enumerate(colours)
        ]
        while metric(client, "oodline_present_images") < 32:
            pass
        held.gate.set()
        answers = [job.result() for job in waiting]
    for i, (answer, colour) in enumerate(zip(answers, colours, strict=True)):
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == f"{i}"
        assert same(answer.json()["verdicts"][0], {"name": None, **by_hand(held, picture(colour))})
    sizes = held.batches[1:33]  # the first is the warm-up
    assert max(sizes) <= 8
    assert sizes.count(8) >= 2


def test_images_of_different_sizes_are_judged_where_the_preprocessing_leaves_them(guard, serving, picture):
    whole = ol.Guard(guard.classifier, guard.detector, guard.calibration, preprocessing=Preprocessing())
    client = serving(whole)
    sizes = [(8, 8), (8, 9), (8, 8), (5, 30)]
    found = client.post("/v1/predict", files=[("images", picture("red", size)) for size in sizes]).json()["verdicts"]
    for row, size in zip(found, sizes, strict=True):
        assert same({k: v for k, v in row.items() if k != "name"}, by_hand(whole, picture("red", size)))


def test_an_explanation_is_the_guards(client, guard, picture):
    content = picture("noise", (20, 12))
    [expected] = guard.explain(guard.preprocessing(Image.open(BytesIO(content))).unsqueeze(0), top=2)
    answer = client.post("/v1/explain?top=2", content=content, headers=PNG).json()
    assert answer.pop("request_id")
    pictures = answer.pop("pictures")
    assert answer == expected.to_dict()
    for name, there_is in (("missing", expected.missing), ("unexpected", expected.unexpected)):
        shown = pictures[name]
        assert bool(shown) == bool(there_is)
        assert shown is None or Image.open(BytesIO(b64decode(shown.partition(",")[2]))).size == (224, 224)
    assert 1 <= len(answer["missing"]) <= 2
    assert answer["missing"][0]["samples"]


def test_a_fused_guard_says_which_detector_raised_the_alarm(serving, picture):
    fused = toy_image_guard(ol.Fuse(["energy", ol.LINe(p_a=0.5, p_w=0.5, clip=5.0)]))
    alone = ol.Guard(fused.classifier, fused.detector, fused.calibration, preprocessing=fused.preprocessing)
    client = serving(alone)  # without neurons of its own: LINe's contributions are enough
    info = client.get("/v1/info").json()
    assert (info["explains"], info["task"]) == (True, "multiclass")
    content = picture("noise")
    answer = client.post("/v1/explain", content=content, headers=PNG).json()
    [expected] = alone.explain(alone.preprocessing(Image.open(BytesIO(content))).unsqueeze(0))
    assert sorted(answer["members"]) == ["energy", "line"]
    assert list(answer["members"].values()) == sorted(answer["members"].values())
    assert answer["explained_by"] == "line"
    assert answer["contributions"] == expected.to_dict()["contributions"]
    assert answer["sentences"] == expected.sentences


def test_a_guard_that_cannot_explain_says_so_and_what_to_do(guard, serving, picture):
    energy = ol.Guard(guard.classifier, ol.Energy(), preprocessing=guard.preprocessing)
    energy.calibrate([torch.rand(60, 3, 8, 8)])
    client = serving(energy)
    answer = client.post("/v1/explain", content=picture(), headers=PNG)
    assert answer.status_code == 404
    assert "'energy' keeps no contributions by class" in answer.json()["detail"]
    assert "/v1/predict" in answer.json()["remedy"]
    assert client.get("/v1/info").json()["explains"] is False
    assert client.post("/v1/predict", content=picture(), headers=PNG).json()["verdicts"][0]["class_name"] is None


def test_info_says_detector_promise_classes_and_the_histogram_of_held_out_scores(client, guard):
    info = client.get("/v1/info").json()
    assert info["detector"]["name"] == "line"
    assert info["detector"]["settings"]["p_a"] == 0.5
    assert info["class_names"] == ["red", "green", "blue"]
    assert info["promise"]["false_alarm"] == 0.05
    assert info["promise"]["sentence"].startswith("At most 5 % of in-distribution images are flagged")
    histogram, scores = info["histogram"], guard.calibration.scores
    assert sum(histogram["counts"]) == len(scores) == info["promise"]["held_out"]
    assert histogram["edges"][0] == float(scores[0])
    assert histogram["edges"][-1] == float(scores[-1])
    assert histogram["threshold"] == guard.calibration.threshold
    assert client.get("/v1/histogram?label=1").json() == histogram


def test_a_promise_by_class_has_a_histogram_for_each(serving):
    guard = toy_image_guard()
    held_out = [torch.eye(3)[torch.arange(90) % 3][:, :, None, None] + 0.2 * torch.randn(90, 3, 8, 8)]
    client = serving(guard.calibrate(held_out, by="predicted"))
    info = client.get("/v1/info").json()
    assert info["promise"]["by"] == "predicted"
    assert "each predicted class" in info["promise"]["sentence"]
    each = [client.get(f"/v1/histogram?label={c}").json() for c in range(3)]
    assert [sum(h["counts"]) for h in each] == [len(c.scores) for c in guard.calibration.classes]
    assert [h["threshold"] for h in each] == [c.threshold for c in guard.calibration.classes]


def test_metrics_count_scores_alarms_by_class_batches_and_drift(guard, serving, picture, metric):
    client = serving(monitor=ol.DriftMonitor(guard.calibration))
    colours = ("red", "red", "blue", "noise")
    *_, noise = [
        client.post("/v1/predict", content=picture(colour), headers=PNG).json()["verdicts"][0] for colour in colours
    ]
    client.post("/v1/explain", content=picture("red"), headers=PNG)
    client.post("/v1/predict", content=b"", headers=PNG)
    client.get("/nowhere")
    assert metric(client, 'oodline_verdicts_total{predicted="red"}') == 3 + (noise["class_name"] == "red")
    assert metric(client, f'oodline_alarms_total{{predicted="{noise["class_name"]}"}}') == 1
    assert metric(client, "oodline_score_count") == 5
    assert metric(client, "oodline_batch_images_count") == 5
    assert metric(client, 'oodline_rejections_total{reason="unreadable-image"}') == 1
    assert metric(client, 'oodline_request_seconds_count{path="/v1/predict",status="200"}') == 4
    assert metric(client, 'oodline_request_seconds_count{path="other",status="404"}') == 1
    assert metric(client, "oodline_queue_images") == 0
    assert metric(client, "oodline_present_images") == 0
    assert metric(client, "oodline_requests_in_flight") == 1  # the one that asks
    assert metric(client, "oodline_drift_inputs_total") == 5


def test_a_service_of_ones_own_gets_verdicts_by_a_dependency(guard, picture):
    app, judged = FastAPI(), verdicts(guard, settings=ServeSettings(max_images=2))

    @app.post("/mine")
    async def mine(found=Depends(judged)):  # noqa: B008
        return [row["class_name"] for row in found]

    async def ask(**body):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post("/mine", **body)

    assert asyncio.run(ask(files=[("images", picture("red")), ("images", picture("blue"))])).json() == ["red", "blue"]
    refused = asyncio.run(ask(content=picture()[:30], headers=PNG))
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("The image cannot be read: ")


def test_a_guard_without_a_threshold_or_a_preprocessing_is_no_service(guard):
    with pytest.raises(NotFittedError, match="calibrate"):
        create_app(ol.Guard(guard.classifier, guard.detector, preprocessing=guard.preprocessing))
    with pytest.raises(SettingError, match="Pass a Preprocessing"):
        create_app(ol.Guard(guard.classifier, guard.detector, guard.calibration))


def test_a_service_that_cannot_begin_leaves_the_model_as_it_was():
    guard = toy_image_guard()
    guard.classifier.model.train()
    threads = threading.active_count()
    with pytest.raises(InputError, match="refused a batch"):
        create_app(guard, Preprocessing(mode="L", resize=8, crop=8))
    assert guard.classifier.model.training
    assert threading.active_count() == threads
    with pytest.raises(SettingError, match="`token` must not be empty"):
        create_app(guard, token="")


def test_the_model_is_evaluated_while_it_is_served_and_then_as_it_was():
    guard = toy_image_guard()
    guard.classifier.model.train()
    judge = create_app(guard).state.service
    assert not guard.classifier.model.training
    judge.close()
    assert guard.classifier.model.training


def test_limits_that_no_request_could_keep_are_refused():
    with pytest.raises(SettingError, match=r"`capacity` must be at least `max_images`, 16; got 8."):
        ServeSettings(capacity=8)
    with pytest.raises(SettingError, match=r"`max_batch` must be above 0 and finite; got 0."):
        ServeSettings(max_batch=0)
    with pytest.raises(SettingError, match=r"`max_wait_ms` must be at least 0 and finite; got -1."):
        ServeSettings(max_wait_ms=-1)
