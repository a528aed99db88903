"""A guard of texts over HTTP: JSON in, the guard's own verdicts out, and a problem for what cannot be judged."""

import json

import pytest
import torch
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel

import oodline as ol
from oodline.data import open_loader
from oodline.serve import create_app
from oodline.testing.texts import toy_tokenizer

from .conftest import running


@pytest.fixture(scope="module")
def text_guard(texts):
    classifier = ol.Classifier.load(f"hf:{texts / 'model'}", device="cpu")
    train, val = (
        open_loader(texts / f"{name}.csv", classifier.preprocessing, class_names=classifier.class_names)
        for name in ("train", "val")
    )
    return ol.Guard(classifier, ol.LINe(clip="90%").fit(classifier, train)).calibrate(val)


@pytest.fixture(scope="module")
def text_client(text_guard):
    with running(create_app(text_guard, settings=ol.serve.ServeSettings(max_images=3, max_characters=400))) as client:
        yield client


def ask(client, body, path="predict", kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(f"/v1/{path}", content=content, headers={"content-type": kind})
    return answer.status_code, answer.json()


def test_verdicts_are_the_guards(text_guard, text_client):
    texts = ["a red cat", "what is love"]
    status, found = ask(text_client, {"texts": texts})
    assert status == 200
    for row, expected in zip(found["verdicts"], text_guard(texts).rows(), strict=True):
        assert row["label"] == expected["label"] and row["class_name"] == expected["class_name"]
        assert row["score"] == pytest.approx(expected["score"], rel=1e-5)
    status, pair = ask(text_client, {"texts": [["a red cat", "is it"]]})
    assert status == 200
    assert pair["verdicts"][0]["score"] == pytest.approx(float(text_guard([("a red cat", "is it")]).score), rel=1e-5)


def test_one_text_that_cannot_be_judged_does_not_spoil_the_others(text_client):
    status, found = ask(text_client, {"texts": ["a red cat", " ", "a" * 401]})
    assert status == 200
    assert found["verdicts"][0]["class_name"] in ("tool", "colour", "animal")
    kinds = [row["problem"]["type"].rpartition(":")[2] for row in found["verdicts"][1:]]
    assert kinds == ["unreadable-text", "text-too-long"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "malformed-json"),
        (b"[" * 100_000, 400, "malformed-json"),
        (b"\xff", 400, "malformed-json"),
        ({"texts": []}, 400, "malformed-json"),
        ({"texts": "a"}, 400, "malformed-json"),
        ({"texts": ["a"], "more": 1}, 400, "malformed-json"),
        ({"texts": ["a"] * 4}, 413, "too-many-texts"),
        ({"texts": [3]}, 422, "unreadable-text"),
        ({"texts": [["a"]]}, 422, "unreadable-text"),
        ({"texts": ["\ud800"]}, 422, "unreadable-text"),
        ({"texts": ["a" * 401]}, 422, "text-too-long"),
    ],
)
def test_what_is_no_text_is_refused_with_a_remedy(body, status, kind, text_client):
    found = ask(text_client, body)
    assert found[0] == status
    assert found[1]["type"] == f"urn:oodline:problem:{kind}"
    assert found[1]["remedy"]


def test_an_image_is_refused_and_said_what_to_send(text_client):
    status, found = ask(text_client, b"\x89PNG", kind="image/png")
    assert status == 415
    assert '{"texts": ["...", "..."]}' in found["remedy"]


def test_a_body_over_the_limit_is_refused(text_guard):
    with running(create_app(text_guard, settings=ol.serve.ServeSettings(max_body=100))) as client:
        assert ask(client, {"texts": ["a" * 200]})[1]["type"].endswith("body-too-large")


def test_an_explanation_and_what_the_service_says_of_itself(text_client):
    status, found = ask(text_client, {"texts": ["a red cat"]}, "explain")
    assert status == 200 and found["contributions"]["found"]
    assert ask(text_client, {"texts": ["a", "b"]}, "explain")[1]["type"].endswith("too-many-texts")
    info = text_client.get("/v1/info").json()
    limits = {"max_body": 2**24, "max_texts": 3, "max_characters": 400, "formats": ["JSON"]}
    assert info["limits"] == limits
    assert "in-distribution texts are flagged" in info["promise"]["sentence"]
    body = text_client.app.openapi()["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert list(body) == ["application/json"]


def test_texts_that_were_cut_are_counted(text_client, metric):
    before = metric(text_client, "oodline_truncated_texts_total")
    status, _ = ask(text_client, {"texts": ["a " * 31, "a " * 30]})  # 32 tokens are the most, two of them special
    assert status == 200
    assert metric(text_client, "oodline_truncated_texts_total") == before + 1


def test_a_guard_of_tokens_judges_texts_and_says_where_there_is_nothing_to_judge():
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    ends = tokenizer.convert_tokens_to_ids("is")  # the prompt; neither text of the warm-up has it
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    sizes = {
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 64,
        "vocab_size": len(tokenizer),
        "pad_token_id": 0,
    }
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=None, **sizes)).eval()
    held_out = torch.randint(4, len(tokenizer), (40, 9))
    held_out[:, 2] = ends
    preprocessing = ol.TextPreprocessing.of(tokenizer, max_length=32, arguments=["input_ids", "attention_mask"])
    classifier = ol.RowClassifier(model, ol.Tokens(after=ends))
    guard = ol.Guard(classifier, ol.NLL(), preprocessing=preprocessing).calibrate(held_out)
    with running(create_app(guard)) as client:
        status, found = ask(client, {"texts": ["the cat is red", "the cow is", "the red cow"]})
        whole, nothing, refused = found["verdicts"]
        assert (
            status == 200
            and whole["rows"] == 1
            and whole["score"] == pytest.approx(float(guard(["the cat is red"]).score), rel=1e-4)
        )
        assert (nothing["rows"], nothing["score"], nothing["is_ood"]) == (0, None, False)
        assert "`after`" in refused["problem"]["detail"] and refused["problem"]["status"] == 422
        status, found = ask(client, {"texts": ["the cat is red"]}, "predict?maps=list")
        assert (status, found["detail"]) == (422, "This guard gives one decision per token, and no map.")
        assert b"oodline_score_count 1.0" in client.get("/metrics").content
