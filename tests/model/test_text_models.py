"""Classifiers of texts of transformers: told from others by what they state, with the tokenizer beside them."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import oodline as ol
from oodline.errors import ModelError, PreprocessingWarning
from oodline.model.zoo import load_model
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.preprocessing.text import TextPreprocessing
from oodline.testing import toy_tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXTS = ["a red cat", "what is the day , tell me of the sky today ?", "is it", "rose"]


def saved(model, folder, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or toy_tokenizer()).save_pretrained(folder)
    return f"hf:{folder}"


def test_a_folder_is_a_model_with_its_tokenizer_and_class_names(texts):
    loaded = load_model(f"hf:{texts / 'model'}")
    assert loaded.class_names == ("tool", "colour", "animal")
    assert loaded.preprocessing == loaded.preprocessing.model_copy(update={"max_length": 32})
    assert loaded.preprocessing.digest == TextPreprocessing.of(toy_tokenizer()).digest
    original = AutoModelForSequenceClassification.from_pretrained(texts / "model").eval()
    tokens = toy_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(loaded.model(**loaded.preprocessing(TEXTS)).logits, original(**tokens).logits)
    assert load_model(f"hf:{texts / 'model'},max_length=9").preprocessing.max_length == 9


def test_padding_changes_no_score(texts):
    classifier = ol.Classifier.load(f"hf:{texts / 'model'}")
    together = ol.Energy()(classifier(classifier.preprocessing(TEXTS)))
    alone = [ol.Energy()(classifier(classifier.preprocessing([text]))) for text in TEXTS]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-5, atol=1e-5)


def test_what_a_model_of_texts_cannot_use_is_refused(texts):
    with pytest.raises(ModelError, match="is a model of texts, and a preprocessing of images was given"):
        load_model(f"hf:{texts / 'model'}", preprocessing=Preprocessing())
    with pytest.raises(ModelError, match=r"`max_length` .* must be a whole number of tokens; got x\."):
        load_model(f"hf:{texts / 'model'},max_length=x")
    with pytest.raises(ModelError, match="is a model of images, and a tokenizer was given"):
        load_model("torchvision:resnet18,pretrained=false", preprocessing=TextPreprocessing.of(toy_tokenizer()))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (BertForTokenClassification, "which gives one decision per token. Say so: --rows tokens"),
        (BertForMaskedLM, "which has no trained classifier of texts"),
    ],
)
def test_other_heads_are_refused(kind, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load_model(saved(kind(BertConfig(vocab_size=40, **SIZES)), tmp_path))


def test_a_tokenizer_that_is_missing_or_of_another_model_is_refused(texts, tmp_path):
    shutil.copytree(texts / "model", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    (tmp_path / "bare" / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"the tokenizer of hf:.* has no words: its files are not there"):
        load_model(f"hf:{tmp_path / 'bare'}")
    (tmp_path / "bare" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer of hf:.* cannot be loaded: "):
        load_model(f"hf:{tmp_path / 'bare'}")
    shutil.copytree(texts / "model", tmp_path / "other")
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(["love", "jazz"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"has tokens up to number 35, and the model knows 34"):
        load_model(f"hf:{tmp_path / 'other'}")


def test_a_padding_token_comes_from_the_model_where_the_tokenizer_has_none(tmp_path):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24, "bos_token_id": 2, "eos_token_id": 3}
    tokenizer = toy_tokenizer()
    tokenizer.pad_token = None
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=40, pad_token_id=3, **sizes))
    classifier = ol.Classifier.load(saved(model, tmp_path / "gpt", tokenizer))
    assert (classifier.preprocessing.max_length, classifier.preprocessing(TEXTS)["input_ids"][0, -1]) == (24, 3)
    together = classifier(classifier.preprocessing(TEXTS)).logits
    alone = torch.cat([classifier(classifier.preprocessing([text])).logits for text in TEXTS])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match=r"cannot be used: .* has no padding token"):
        load_model(saved(model, tmp_path / "gpt", tokenizer))


def test_the_longest_text_that_positions_have_room_for_is_taken(tmp_path):
    config = RobertaConfig(vocab_size=40, max_position_embeddings=20, pad_token_id=1, type_vocab_size=1, **SIZES)
    classifier = ol.Classifier.load(saved(RobertaForSequenceClassification(config), tmp_path))
    assert classifier.preprocessing.max_length == 18  # positions are counted from that of the padding
    assert classifier(classifier.preprocessing.tokens(["a " * 90]).inputs).logits.shape == (1, 2)


def test_a_guard_reads_texts_and_notices_another_tokenizer(texts, tmp_path):
    place = shutil.copytree(texts / "model", tmp_path / "model")
    classifier = ol.Classifier.load(f"hf:{place}")
    guard = ol.Guard(classifier, ol.Energy()).calibrate([classifier.preprocessing(TEXTS)] * 5)
    path = guard.save(tmp_path / "guard.safetensors")
    scores = guard(TEXTS).score
    assert torch.equal(scores, guard(classifier.preprocessing(TEXTS)).score)
    again = ol.Guard.load(path, ol.Classifier.load(f"hf:{place}"))
    assert torch.equal(again(TEXTS).score, scores)
    assert again.preprocessing.digest == guard.preprocessing.digest
    with pytest.raises(ol.errors.InputError, match="not the tokenizer itself"):
        ol.Guard.load(path, ol.Classifier(classifier.model))(TEXTS)
    document = json.loads((place / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = False
    (place / "tokenizer.json").write_text(json.dumps(document))
    other = ol.Classifier.load(f"hf:{place}")
    with pytest.warns(PreprocessingWarning, match="the tokenizer is not that of the guard file"):
        ol.Guard.load(path, other)


def test_a_guard_without_a_tokenizer_refuses_texts():
    classifier, loader = ol.testing.toy_problem()
    guard = ol.Guard(classifier, ol.Energy()).calibrate(loader)
    with pytest.raises(ol.errors.InputError, match="the guard has no tokenizer for texts"):
        guard(["a cat"])
