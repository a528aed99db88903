"""A tokenizer as a preprocessing: which one it is, what it makes of texts, and what is too long."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import normalizers

from oodline.errors import InputError, PreprocessingWarning, SettingError
from oodline.preprocessing.kinds import preprocessing_of
from oodline.preprocessing.text import TextPreprocessing
from oodline.testing import toy_tokenizer


@pytest.fixture(scope="module")
def preprocessing():
    return TextPreprocessing.of(toy_tokenizer(), max_length=7)


def test_tokens_are_those_of_the_tokenizer(preprocessing):
    texts = ["A red cat", "what is the day ?"]
    expected = toy_tokenizer()(texts, padding=True, return_tensors="pt")
    made = preprocessing(texts)
    assert list(made) == ["input_ids", "attention_mask"]
    assert all(torch.equal(made[name], expected[name]) for name in made)
    pair = preprocessing([("a cat", "a dog")])
    assert torch.equal(pair["input_ids"], toy_tokenizer()("a cat", "a dog", return_tensors="pt")["input_ids"])


def test_only_longer_texts_are_cut_and_counted(preprocessing):
    fits, long = "a " * 5, "a " * 6  # and two special tokens
    made = preprocessing.tokens([fits, long, "a"])
    assert made.truncated == [1]
    assert made.inputs["input_ids"].shape == (3, 7)
    assert torch.equal(made.inputs["input_ids"][0], made.inputs["input_ids"][1])
    with pytest.warns(UserWarning, match=r"texts of more than 7 tokens are cut there: 1 of 2\."):
        preprocessing([fits, long])


def changed(change):
    tokenizer = toy_tokenizer()
    change(tokenizer)
    return TextPreprocessing.of(tokenizer, max_length=7)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_tokens(["love"]),
        lambda t: setattr(t, "padding_side", "left"),
        lambda t: setattr(t, "truncation_side", "left"),
        lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.BertNormalizer(lowercase=False)),
        lambda t: setattr(t, "pad_token", "[UNK]"),
    ],
)
def test_another_vocabulary_or_setting_is_another_tokenizer(change, preprocessing):
    other = changed(change)
    assert other.digest != preprocessing.digest
    record = TextPreprocessing.model_validate_json(preprocessing.model_dump_json())
    with pytest.warns(PreprocessingWarning, match=f"its digest is {other.digest[:12]} .*, and {record.digest[:12]} "):
        used = record.with_tokenizer_of(other)
    assert used.digest == other.digest
    assert torch.equal(used(["A red cat"])["input_ids"], other(["A red cat"])["input_ids"])


def test_a_record_finds_its_tokenizer_again_whatever_was_done_with_it_meanwhile(preprocessing):
    tokenizer = toy_tokenizer()
    tokenizer(["a cat"] * 2, padding="max_length", truncation=True, max_length=3)  # it keeps such settings
    same = TextPreprocessing.of(tokenizer)
    assert same.digest == preprocessing.digest
    record = TextPreprocessing.model_validate_json(preprocessing.model_dump_json())
    with pytest.raises(InputError, match=r"not the tokenizer itself\. Load the model with its tokenizer"):
        record(["a"])
    bound = record.with_tokenizer_of(same)  # no warning
    assert bound.max_length == 7
    assert bound(["a cat"])["input_ids"].tolist() == preprocessing(["a cat"])["input_ids"].tolist()


def test_it_goes_to_other_threads_and_processes(preprocessing):
    again = pickle.loads(pickle.dumps(preprocessing))
    texts = [["a cat " * k, "the day"] for k in range(1, 40)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda t: again.tokens(t).inputs["input_ids"], texts))
    assert all(
        torch.equal(one, preprocessing.tokens(t).inputs["input_ids"]) for one, t in zip(made, texts, strict=True)
    )


@pytest.mark.parametrize("texts", ["a cat", [], ["a", 3], ["a", ("b", "c")], [("a", "b", "c")], None])
def test_what_is_no_list_of_texts_is_refused(texts, preprocessing):
    with pytest.raises(InputError, match=r"texts must be a list of strings, or of pairs"):
        preprocessing.tokens(texts)


def test_what_no_tokenizer_takes_is_refused(preprocessing):
    with pytest.raises(InputError, match="the tokenizer refuses"):
        preprocessing(["\ud800"])


def test_tokenizers_that_cannot_be_used_are_refused():
    tokenizer = toy_tokenizer()
    with pytest.raises(SettingError, match=r"`max_length` must be at least 3, with the special tokens; got 2\."):
        TextPreprocessing.of(tokenizer, max_length=2)
    tokenizer.pad_token = None
    with pytest.raises(SettingError, match=r"has no padding token, .*Set `pad_token` of the tokenizer"):
        preprocessing_of(tokenizer)
    with pytest.raises(SettingError, match="must be a tokenizer of transformers; got int"):
        TextPreprocessing.of(3)


def test_a_record_of_a_file_is_validated(preprocessing):
    document = json.loads(preprocessing.model_dump_json())
    for wrong in ({"digest": "abc"}, {"max_length": 0}, {"run": "code"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TextPreprocessing.model_validate({**document, **wrong})
