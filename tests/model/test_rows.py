"""Rows: every pixel of a segmentation network is a row, and an image is judged by its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import oodline as ol
from oodline._util.hashing import hashed_share
from oodline.errors import HeadError, InputError, LabelError, MismatchError, SettingError, UnknownNameError
from oodline.model.rows.per_input import Lowest, Mean
from oodline.model.rows.places import MOST_PLACES
from oodline.passes.sharding import shard
from oodline.statistics import Seen

CLASSES = 4


class Segmenter(nn.Module):
    """A small network whose map is a quarter of the image, brought to the image's size unless told otherwise."""

    def __init__(self, resize: str | None = "bilinear", head: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Conv2d(8, CLASSES, 1) if head is None else head
        self.resize = resize

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        made = self.head(self.body(images))
        if self.resize is not None:
            made = nn.functional.interpolate(made, images.shape[2:], mode=self.resize)
        return {"out": made, "aux": made.flip(1)}


@pytest.fixture
def model() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter().eval()


def images(seed: int, n: int = 4, size: int = 12) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("resize", [None, "bilinear", "nearest", "bicubic"])
def test_rows_are_the_pixels_of_the_heads_map(resize: str | None) -> None:
    torch.manual_seed(0)
    model = Segmenter(resize).eval()
    batch = images(1)
    activations = ol.RowClassifier(model, ol.Pixels())(batch, index=torch.tensor([7, 3, 5, 9]))
    with torch.no_grad():
        body = model.body(batch)
    assert torch.equal(activations.features, body.permute(0, 2, 3, 1).reshape(-1, 8))
    assert torch.allclose(activations.logits, model.head(body).permute(0, 2, 3, 1).reshape(-1, CLASSES), atol=1e-6)
    assert activations.group.tolist() == [g for g in range(4) for _ in range(36)]
    assert activations.place.tolist() == 4 * list(range(36))
    assert activations.samples.tolist() == [7, 3, 5, 9]
    assert activations.index[37] == 3 * MOST_PLACES + 1
    assert activations.places.grid == (6, 6)


def test_a_head_that_is_a_sum_at_another_resolution_is_found() -> None:
    class Two(Segmenter):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(8, CLASSES, 1)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            body = self.body(images)
            made = self.head(body) + self.second(body.relu())
            return {"out": nn.functional.interpolate(made, images.shape[2:], mode="bilinear")}

    torch.manual_seed(0)
    classifier = ol.RowClassifier(Two().eval(), "pixels")
    activations = classifier(images(1))
    assert classifier.head_name == "head + second"
    assert torch.allclose(activations.head(activations.features), activations.logits, atol=1e-5)


@pytest.mark.parametrize("padding", [1, "same", 0])
def test_a_head_of_windows_reads_the_features_of_the_window(padding: int | str) -> None:
    torch.manual_seed(0)
    model = Segmenter(head=nn.Conv2d(8, CLASSES, 3, padding=padding)).eval()
    batch = images(1)
    classifier = ol.RowClassifier(model, "pixels")
    activations = classifier(batch)
    with torch.no_grad():
        body = model.body(batch)
        made = model.head(body)
    assert (classifier.head_name, activations.places.grid) == ("head", made.shape[2:])
    assert torch.allclose(activations.logits, made.flatten(2).mT.flatten(0, 1), atol=1e-6)
    # the middle of the map: one window, in the order of the weight
    row = activations.features[activations.places.grid[1] * 2 + 2]
    first = 1 if padding else 2
    assert torch.equal(row, body[0, :, first : first + 3, first : first + 3].flatten())
    assert activations.head.num_features == 72


def test_patches_of_a_transformer_are_pixels() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            made = self.head(tokens).transpose(1, 2).unflatten(2, (images.shape[2] // 4, images.shape[3] // 4))
            return nn.functional.interpolate(made, images.shape[2:], mode="bilinear")

    torch.manual_seed(0)
    activations = ol.RowClassifier(Patches().eval(), "pixels")(torch.randn(2, 3, 8, 16))
    assert activations.places.grid == (2, 4)
    assert activations.features.shape == (16, 8)


def test_what_has_no_map_of_logits_is_refused() -> None:
    with pytest.raises(HeadError, match="must return one map of logits"):
        ol.RowClassifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "pixels")(torch.randn(2, 3, 2, 2))
    with pytest.raises(HeadError, match="returns tanh of the output"):
        ol.RowClassifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh()), "pixels")(torch.randn(2, 3, 4, 4))


def test_statistics_see_the_same_share_of_rows_in_any_batches(model: Segmenter) -> None:
    classifier = ol.RowClassifier(model, ol.Pixels(fit_share=0.3)).sampled()
    batch = images(1)
    whole = [a.index for a, _ in classifier.stream(batch)]
    parts = [a.index for a, _ in classifier.stream([batch[:1], batch[1:]])]
    assert torch.equal(torch.cat(whole), torch.cat(parts))
    everything = ol.RowClassifier(model, "pixels")(batch).index
    assert torch.equal(torch.cat(whole), everything[hashed_share(everything, 0.3)])
    assert 25 < len(whole[0]) < 62  # of 144


def test_labels_are_those_at_the_pixels_of_the_map_and_ignored_ones_are_left_out(model: Segmenter) -> None:
    masks = torch.arange(144).reshape(1, 12, 12).remainder(CLASSES).repeat(4, 1, 1)
    masks[:, :4] = 255
    classifier = ol.RowClassifier(model, ol.Pixels(fit_share=1.0)).sampled()
    [(activations, labels)] = list(classifier.stream([(images(1), masks)]))
    # nearest-exact takes rows and columns 1, 3, 5, ... of the mask
    expected = masks[0, 1::2, 1::2]
    assert torch.equal(labels, expected[expected != 255].repeat(4))
    assert int(activations.place.min()) == 12  # two rows of six pixels are ignored
    with pytest.raises(LabelError, match=r"labels of pixels must be whole numbers \(N, H, W\)"):
        next(classifier.stream([(images(1), torch.zeros(4, dtype=torch.int64))]))
    with pytest.raises(InputError, match="no row to fit on"):
        list(classifier.stream([(images(1), torch.full_like(masks, 255))]))


def test_fitting_and_scoring_equal_the_rows_given_as_features(model: Segmenter) -> None:
    classifier = ol.RowClassifier(model, ol.Pixels(region=0.05, fit_share=1.0))
    masks = torch.randint(0, CLASSES, (4, 12, 12), generator=torch.Generator().manual_seed(2))
    loader = [(images(1), masks)]
    rows, of_rows = next(iter(classifier.stream(loader)))
    features, features_loader = ol.from_features(
        rows.features, of_rows, head=(model.head.weight[:, :, 0, 0], model.head.bias)
    )
    for name in ("mahalanobis", "energy", "knn,k=3", "line"):
        ours = ol.create_detector(name).fit(classifier, loader)
        theirs = ol.create_detector(name).fit(features, features_loader)
        new = classifier(images(3))
        assert torch.allclose(ours(new), theirs(features({"features": new.features})), rtol=1e-4, atol=1e-5)
        lowest = ours(new).reshape(4, 36).sort(1).values[:, 1]  # 0.05 of 36 pixels, rounded up: the second lowest
        assert torch.equal(ol.score(ours, classifier, images(3))[ours.name], lowest.double())


def test_an_image_is_flagged_exactly_where_enough_of_its_pixels_are(model: Segmenter) -> None:
    classifier = ol.RowClassifier(model, ol.Pixels(region=0.1, fit_share=0.5))
    detector = ol.Mahalanobis(by="all").fit(classifier, images(1, 20))
    guard = ol.Guard(classifier, detector).calibrate([images(2, 30), images(3, 30)], false_alarm=0.2)
    verdict = guard(images(4, 50))
    assert isinstance(verdict, ol.RowVerdict)
    flagged = verdict.maps("is_ood").flatten(1).sum(1)
    assert torch.equal(flagged >= 4, verdict.is_ood)  # 0.1 of 36, rounded up
    assert torch.equal(verdict.maps("p_value") <= 0.2, verdict.maps("is_ood"))
    assert 0 < int(verdict.is_ood.sum()) < 25
    assert verdict.maps("label", (12, 12)).shape == (50, 12, 12)
    row = verdict.rows()[0]
    assert row["rows"] == 36 and row["label"] == -1 and row["flagged_share"] == float(flagged[0]) / 36


def test_promise_per_image_holds_on_average(model: Segmenter) -> None:
    classifier = ol.RowClassifier(model, ol.Pixels(region=0.05, fit_share=0.5))
    detector = ol.Mahalanobis(by="all").fit(classifier, images(1, 20))
    scores = ol.score(detector, classifier, images(5, 4000))["mahalanobis"]
    rates = []
    for part in scores.reshape(20, 200):
        calibration = ol.Calibration(part[:99].sort().values, 0.1, float(part[:99].sort().values[9]))
        rates.append(float(calibration.is_ood(part[99:]).double().mean()))
    assert 0.07 < sum(rates) / 20 < 0.13


def test_a_guard_is_saved_with_its_rows(model: Segmenter, tmp_path: Path) -> None:
    classifier = ol.RowClassifier(model, "pixels,region=0.1,fit_share=0.5")
    guard = ol.Guard(classifier, ol.Mahalanobis(by="all").fit(classifier, images(1, 20))).calibrate(images(2, 30))
    path = guard.save(tmp_path / "guard.safetensors")
    again = ol.Guard.load(path, ol.RowClassifier(model, "pixels,region=0.1,fit_share=0.5"))
    assert torch.equal(again(images(3)).maps("score"), guard(images(3)).maps("score"))
    with pytest.raises(MismatchError, match=r"fitted on rows 'pixels,region=0.1,.*has rows 'pixels,region=0.2"):
        ol.Guard.load(path, ol.RowClassifier(model, "pixels,region=0.2,fit_share=0.5"))
    with pytest.raises(MismatchError, match="the classifier has one row per input"):
        ol.Guard.load(path, ol.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES))))


def test_fitting_data_is_recognised_by_its_images(model: Segmenter) -> None:
    classifier = ol.RowClassifier(model, "pixels")
    detector = ol.Mahalanobis(by="all").fit(classifier, images(1, 40))
    with pytest.warns(ol.SeenDataWarning, match="40 are among those"):
        ol.Guard(classifier, detector).calibrate(images(1, 40))


def test_what_belongs_to_a_whole_image_is_refused(model: Segmenter) -> None:
    classifier = ol.RowClassifier(model, "pixels")
    for name in ("odin", "nap", "react,scorer=odin"):
        with pytest.raises(InputError, match="belong to an input and not to its pixels"):
            ol.fit([name], classifier, images(1))
    guard = ol.Guard(classifier, ol.Mahalanobis(by="all").fit(classifier, images(1, 20)))
    with pytest.raises(SettingError, match="`by` must be 'all'"):
        guard.calibrate(images(2, 40), by="predicted")
    guard.calibrate(images(2, 40))
    with pytest.raises(SettingError, match="cannot explain a verdict by neurons"):
        guard.explain(images(3))


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="`region` must be a number from 0 to 1"):
        ol.Pixels(region=2.0)
    with pytest.raises(SettingError, match="pixels has no setting 'size'"):
        ol.RowClassifier(Segmenter(), "pixels,size=3")
    with pytest.raises(UnknownNameError, match="kind of rows"):
        ol.RowClassifier(Segmenter(), "pixel")


def test_lowest_and_mean_equal_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, group = (
        torch.randn(200, generator=generator),
        torch.randint(0, 9, (200,), generator=generator).sort().values,
    )
    group[group == 4] = 5  # an input without rows
    for share, count in ((0.0, 1), (0.1, 1), (0.0, 3), (1.0, 1), (0.0, 500)):
        found = Lowest(share, count)(scores, group, torch.arange(9))
        for g in range(9):
            own = scores[group == g].sort().values
            k = max(count, -int(-share * len(own) // 1))
            assert found[g] == (torch.inf if not len(own) else own[min(k, len(own)) - 1])
    hundred = torch.arange(100.0)
    for share, k in ((0.07, 7), (0.29, 29), (0.071, 8)):  # 0.07 * 100 is a little above 7 in floating point
        assert Lowest(share)(hundred, torch.zeros(100, dtype=torch.int64), torch.arange(1)) == k - 1
        assert Lowest(share).of_all(hundred.unsqueeze(0)) == k - 1
    means = Mean()(scores, group, torch.arange(9))
    for g in (0, 8):
        assert torch.isclose(means[g], scores[group == g].mean())
    assert means[4] == torch.inf


def test_shares_of_the_data_have_the_rows_of_the_whole(model: Segmenter) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images(1, 12)), batch_size=3)
    classifier = ol.RowClassifier(model, ol.Pixels(fit_share=0.5)).sampled()
    whole = torch.cat([a.index for a, _ in classifier.stream(loader)])
    seen, parts = Seen(), []
    for i in range(2):
        for activations, labels in classifier.stream(shard(loader, i, 2)):
            seen.update(activations, labels)
            parts.append(activations.index)
    assert torch.equal(torch.cat(parts), whole)
    assert seen.intervals.tolist() == [[0, 12]]


@pytest.mark.parametrize("given", [{"task": "multilabel"}, {"compile": True}])
def test_what_is_for_one_decision_per_input_is_refused_beside_rows(given: dict, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\n\ndef build():\n    return nn.Conv2d(3, 4, 1)\n")
    with pytest.raises(SettingError, match=rf"`{next(iter(given))}` is for a model with one decision per input"):
        ol.Classifier.load(f"python:{tmp_path}/mine.py:build", rows="pixels", **given)
