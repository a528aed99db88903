"""Rows of tokens: language models and token classifiers, with values against plain loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForTokenClassification,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

import oodline as ol
from oodline.errors import HeadError, InputError, LabelError, MismatchError, SettingError
from oodline.model.head import HeadInfo, LayeredHead
from oodline.passes.sharding import shard

WORDS = 20
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
LLAMA = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": WORDS, "pad_token_id": 0}


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5,
            bos_token_id=0, eos_token_id=None, pad_token_id=0,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return gpt2()


def texts(seed: int, n: int = 4, length: int = 12) -> Tensor:
    return torch.randint(1, WORDS, (n, length), generator=torch.Generator().manual_seed(seed))


def padded(tokens: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.where(mask, tokens, 0), "attention_mask": mask.long()}


def test_a_row_of_a_language_model_predicts_the_next_token(model: nn.Module) -> None:
    tokens = texts(1)
    activations = ol.RowClassifier(model, ol.Tokens())(tokens, index=torch.tensor([5, 3, 8, 1]))
    with torch.no_grad():
        hidden = model.transformer(tokens)[0]
    assert torch.equal(activations.features, hidden[:, :-1].flatten(0, 1))
    assert torch.allclose(activations.logits, model.lm_head(hidden)[:, :-1].flatten(0, 1), atol=1e-5)
    assert torch.equal(activations.places.known["token"], tokens[:, 1:].flatten())
    assert activations.place.tolist() == 4 * list(range(11)) and activations.samples.tolist() == [5, 3, 8, 1]


@pytest.mark.parametrize("name", ["nll", "entropy", "energy", "gen", "msp", "mahalanobis,by=all", "knn,k=3"])
def test_padding_changes_nothing(model: nn.Module, name: str) -> None:
    classifier = ol.RowClassifier(model, ol.Tokens())
    lengths = [12, 7, 2, 9]
    detector = ol.create_detector(name).fit(classifier, texts(2, 20))
    together = ol.score(detector, classifier, [padded(texts(1), lengths)])[detector.name]
    alone = [ol.score(detector, classifier, texts(1)[i : i + 1, :n])[detector.name] for i, n in enumerate(lengths)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_padding_on_the_left_and_a_text_of_one_token_have_no_row(model: nn.Module) -> None:
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]])
    activations = ol.RowClassifier(model, ol.Tokens())({"input_ids": texts(1, 2, 4), "attention_mask": mask})
    assert (activations.group.tolist(), activations.place.tolist()) == ([0], [2])
    assert activations.judged(torch.tensor([-3.0])).tolist() == [-3.0, torch.inf]


def test_only_the_answer_has_rows_where_its_beginning_is_known(model: nn.Module) -> None:
    tokens = torch.tensor([[4, 9, 5, 9, 6, 7], [9, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 9]])
    places = ol.RowClassifier(model, ol.Tokens(after=9))(tokens).places
    assert list(zip(places.group.tolist(), places.place.tolist(), strict=True)) == [
        *[(0, 3), (0, 4)],
        *[(1, i) for i in range(5)],
    ]
    with pytest.raises(InputError, match=r"`after`=8 must be in every text; 3 of 3 do not hold it \(first: position 0"):
        ol.RowClassifier(model, ol.Tokens(after=8))(tokens)


def test_the_token_that_ends_the_prompt_may_be_the_padding(model: nn.Module, tmp_path: Path) -> None:
    classifier = ol.RowClassifier(model, ol.Tokens(after=0))
    tokens, lengths = texts(1), [12, 7, 4, 9]
    tokens[:, 2] = 0
    batch = padded(tokens, lengths)
    assert torch.bincount(classifier(batch).group).tolist() == [9, 4, 1, 6]
    alone = [classifier({k: v[i : i + 1, :n] for k, v in batch.items()}) for i, n in enumerate(lengths)]
    assert torch.allclose(classifier(batch).logits, torch.cat([each.logits for each in alone]), atol=1e-5)
    held_out = texts(3, 30)
    held_out[:, 2] = 0
    guard = ol.Guard(classifier, ol.NLL()).calibrate(held_out)
    assert guard.probe is not None  # a pattern need not hold the token
    again = ol.Guard.load(guard.save(tmp_path / "guard.safetensors"), ol.RowClassifier(gpt2(), ol.Tokens(after=0)))
    assert torch.equal(again(batch).score, guard(batch).score)


def test_rows_of_an_encoder_decoder_are_tokens_of_its_decoder() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=WORDS, tie_word_embeddings=False, **sizes)).eval()
    classifier = ol.RowClassifier(model, ol.Tokens())
    read = {"input_ids": texts(1, 2, 6), "attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])}
    written = torch.tensor([[0, 8, 9, 10, 11, 1], [0, 8, 9, 1, 0, 0]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    batch = {**read, "decoder_input_ids": written}
    for given in ({**batch, "decoder_attention_mask": mask}, batch):  # without a mask, the padding says it
        places = classifier(given).places
        assert places.group.tolist() == 5 * [0] + 3 * [1]
        assert places.known["token"].tolist() == [8, 9, 10, 11, 1, 8, 9, 1]
    labels = written.roll(-1, 1)  # as transformers has them: of what each row predicts
    labels[0, 0] = -100
    [(activations, _)] = list(classifier.sampled().stream([{**batch, "labels": labels}]))
    assert activations.place.tolist() == [1, 2, 3, 4, 0, 1, 2]
    with pytest.raises(HeadError, match="Give them as 'decoder_input_ids'"):
        classifier.rows.returned(model, torch.zeros(2, 6, WORDS), {**read, "labels": labels}, {})
    with pytest.raises(InputError, match=r"`decoder_attention_mask` must be of the shape of the rows, \(2, 6\); got"):
        classifier({**batch, "decoder_attention_mask": mask[:, :5]})


def test_a_batch_without_a_row_is_scored_by_detectors() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embedding(input_ids).relu())

    torch.manual_seed(0)
    classifier = ol.RowClassifier(Tagger(), ol.Tokens())
    none = {"input_ids": texts(1), "attention_mask": torch.zeros(4, 12)}
    activations = classifier(none)  # of a new classifier: padding shows the head, too
    assert activations.features.shape == (0, 16) and activations.places.inputs == 4
    batch = {**none, "attention_mask": torch.ones(4, 12), "labels": texts(2).remainder(3)}
    names = ("energy", "line", "react", "knn,k=3", "vim", "mahalanobis", "openmax", "fuse")
    fitted = ol.fit({name: ol.create_detector(name) for name in names}, classifier, [batch]).detectors
    for name, detector in fitted.items():
        assert detector(activations).shape == detector.score_rows(activations).shape == (0,), name
    guard = ol.Guard(classifier, fitted["energy"]).calibrate([{**batch, "input_ids": texts(3)}] * 5)
    [row, *_] = guard(none).rows()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["rows"], row["score"], row["is_ood"], row["p_value"]) == (0, None, False, 1.0)


def test_what_a_pass_shows_of_a_soft_cap_is_known_to_all_copies() -> None:
    model = gpt2()
    model.config.softcap = 3.0  # stated, and not applied
    classifier = ol.RowClassifier(model, ol.Tokens())
    assert isinstance(classifier.head, LayeredHead)
    guess = ol.RowClassifier(model, ol.Tokens(), head="lm_head")
    next(iter(classifier.sampled().stream([texts(1)])))
    assert not isinstance(classifier.head, LayeredHead)
    guess.expect(HeadInfo.of(classifier.head))
    assert not isinstance(guess.head, LayeredHead)


def test_rows_of_a_token_classifier_are_its_tokens_and_labels_leave_some_out() -> None:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=WORDS, num_labels=3, initializer_range=0.5)
    classifier = ol.RowClassifier(BertForTokenClassification(config).eval(), ol.Tokens())
    batch, labels = padded(texts(1), [12, 7, 2, 9]), texts(3).remainder(3)
    labels[:, 0] = -100
    [(activations, of_rows)] = list(classifier.sampled().stream([{**batch, "labels": labels}]))
    kept = batch["attention_mask"].bool() & (labels >= 0)
    with torch.no_grad():
        logits = classifier.model(**batch).logits
    assert torch.allclose(activations.logits, logits[kept], atol=1e-5)
    assert torch.equal(of_rows, labels[kept])
    assert not activations.places.known
    with pytest.raises(LabelError, match=r"labels of tokens must be whole numbers \(N, T\), here \(4, 12\)"):
        next(classifier.stream([{**batch, "labels": labels[:, 0]}]))


def test_labels_of_a_language_model_say_what_is_fitted_on(model: nn.Module) -> None:
    labels = texts(1).clone()
    labels[:, :6] = -100  # of the prompt
    classifier = ol.RowClassifier(model, ol.Tokens()).sampled()
    [(activations, of_rows)] = list(classifier.stream([(texts(1), labels)]))
    assert of_rows is None
    assert activations.place.tolist() == 4 * list(range(5, 11))  # row 5 predicts token 6


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (lambda: CohereForCausalLM(CohereConfig(**LLAMA, logit_scale=0.0625)), "0.0625*lm_head"),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**LLAMA, final_logit_softcapping=3.0)), "lm_head"),
    ],
)
def test_scaled_and_capped_logits_are_the_models_own(build: Any, head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    classifier = ol.RowClassifier(model, ol.Tokens())
    activations = classifier(texts(1))
    with torch.no_grad():
        logits = model(texts(1)).logits[:, :-1].flatten(0, 1)
    assert classifier.head_name == head and float(logits.std()) > 0.1
    assert torch.allclose(activations.logits, logits, atol=1e-5)
    assert torch.allclose(activations.head(activations.features), logits, atol=1e-4)
    assert isinstance(activations.head, LayeredHead) == head.startswith("lm")
    detector = ol.Mahalanobis(by="all").fit(classifier, texts(2, 20))
    path = ol.Guard(classifier, detector).calibrate(texts(3, 30)).save(tmp_path / "guard.safetensors")
    again = ol.Guard.load(path, ol.RowClassifier(model, ol.Tokens()))  # before any pass of the new classifier
    assert torch.isfinite(again(texts(4)).score).all()


@pytest.mark.parametrize("layout", ["sequence first", "flattened"])
def test_other_layouts_at_the_head_are_read(layout: str) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, 5)

        def forward(self, tokens: Tensor) -> Tensor:
            features = self.embedding(tokens)
            if layout == "flattened":
                return self.head(features.flatten(0, 1)).unflatten(0, tokens.shape)
            return self.head(features.transpose(0, 1)).transpose(0, 1)

    torch.manual_seed(0)
    activations = ol.RowClassifier(Other(), ol.Tokens())(texts(1))
    assert torch.allclose(activations.head(activations.features), activations.logits, atol=1e-5)
    assert activations.features.shape == (48, 8)


def test_what_returns_no_row_per_token_is_refused(model: nn.Module) -> None:
    with pytest.raises(HeadError, match=r"must return logits \(N, T, C\)"):
        ol.RowClassifier(nn.Linear(4, 3), "tokens")(torch.randn(2, 4))
    embedded = {"inputs_embeds": torch.randn(2, 5, 16)}
    with pytest.raises(HeadError, match="the batch holds no tokens"):
        ol.RowClassifier(model, "tokens")(embedded)
    assert len(ol.RowClassifier(model, "tokens,predicts=own")(embedded)) == 10
    with pytest.raises(SettingError, match="`judged` must be"):
        ol.Tokens(judged="median")  # type: ignore[arg-type]


def test_the_lowest_mean_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, group = (
        torch.randn(200, generator=generator),
        torch.randint(0, 9, (200,), generator=generator).sort().values,
    )
    group[group == 4] = 5
    for window in (1, 3, 20, 25, 500):
        found = ol.LowestMean(window)(scores, group, torch.arange(9))
        for g in range(9):
            own = scores[group == g].double()
            means = [own[i : i + window].mean() for i in range(max(len(own) - window + 1, 1))]
            expected = torch.stack(means).min() if len(own) else torch.tensor(torch.inf, dtype=torch.float64)
            assert torch.isclose(found[g], expected)


def test_shares_and_batches_see_the_rows_of_the_whole(model: nn.Module) -> None:
    loader = DataLoader(texts(1, 12), batch_size=3)
    classifier = ol.RowClassifier(model, ol.Tokens(fit_share=0.5)).sampled()
    whole = torch.cat([a.index for a, _ in classifier.stream(loader)])
    parts = [a.index for i in range(2) for a, _ in classifier.stream(shard(loader, i, 2))]
    assert torch.equal(torch.cat(parts), whole)
    assert 40 < len(whole) < 90  # of 132


def test_a_guard_of_texts_is_saved_with_its_rows_and_keeps_its_promise(model: nn.Module, tmp_path: Path) -> None:
    rows = "tokens,judged=running,window=4"
    classifier = ol.RowClassifier(model, rows)
    guard = ol.Guard(classifier, ol.NLL()).calibrate(texts(2, 99), false_alarm=0.1)
    path = guard.save(tmp_path / "guard.safetensors")
    again = ol.Guard.load(path, ol.RowClassifier(gpt2(), rows))
    verdict = again(padded(texts(3), [12, 7, 2, 9]))
    assert torch.equal(verdict.score, guard(padded(texts(3), [12, 7, 2, 9])).score)
    assert [len(own) for own in verdict.lists("score")] == [11, 6, 1, 8]
    assert verdict.maps("score").shape == (4, 12)
    with pytest.raises(MismatchError, match="fitted on rows 'tokens,judged=running,window=4"):
        ol.Guard.load(path, ol.RowClassifier(gpt2(), "tokens,judged=mean"))
    scores = ol.score(ol.NLL(), classifier, DataLoader(texts(5, 4000), batch_size=500))["nll"].reshape(20, 200)
    rates = []
    for part in scores:
        held_out = part[:99].sort().values
        rates.append(float(ol.Calibration(held_out, 0.1, float(held_out[9])).is_ood(part[99:]).double().mean()))
    assert 0.07 < sum(rates) / 20 < 0.13


def test_an_answer_is_scored_while_it_is_written_as_it_is_afterwards(model: nn.Module) -> None:
    classifier = ol.RowClassifier(model, ol.Tokens(judged="running", window=4, after=9))

    def write(seed: int, n: int, **settings: Any) -> Tensor:
        torch.manual_seed(seed)
        prompts = torch.cat([texts(seed, n, 3), torch.full((n, 1), 9)], 1)
        asked = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts), "max_new_tokens": 15}
        return model.generate(**asked, do_sample=True, bad_words_ids=[[9]], **settings)

    guard = ol.Guard(classifier, ol.NLL()).calibrate(write(2, 40), false_alarm=0.4)
    with guard.stream() as stream:
        made = write(3, 8, stopping_criteria=[stream])
    lengths = [monitor.seen for monitor in stream.monitors]
    batch = padded(made, [4 + n for n in lengths])
    verdict = guard(batch)
    assert torch.equal(verdict.is_ood, stream.stopped)
    assert 0 < int(stream.stopped.sum()) < 8
    assert [len(own) for own in verdict.lists("score")] == lengths
    assert torch.allclose(verdict.score, torch.tensor([m.score for m in stream.monitors]).double(), atol=1e-4)
    assert all(m.stopped_at == m.seen or not m.stopped for m in stream.monitors)
    assert all(n == 15 for n, stopped in zip(lengths, stream.stopped, strict=True) if not stopped)


def test_a_stream_that_cannot_be_followed_is_refused(model: nn.Module) -> None:
    def guard(rows: str) -> ol.Guard:
        return ol.Guard(ol.RowClassifier(model, rows), ol.Entropy()).calibrate(texts(2, 30))

    with pytest.raises(SettingError, match="only fall while an answer goes on; got Mean"):
        guard("tokens,judged=mean").stream()
    with pytest.raises(SettingError, match="whose rows predict the next token"):
        guard("tokens,judged=running,predicts=own").stream()
    stream = guard("tokens,judged=lowest").stream(end=[3])
    with pytest.raises(InputError, match="the stream is not open"):
        stream(texts(1))
    with stream:
        model(texts(1)[:, :-1])
        assert stream(texts(1)).tolist() == 4 * [False]
        with pytest.raises(InputError, match="beam search lets answers change places"):
            stream(texts(1).flip(0))
