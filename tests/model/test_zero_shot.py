"""Zero-shot classifiers: text as a head, on encoders of every kind."""

import pytest
import torch
from torch import nn

import oodline as ol
from oodline.errors import DataError, InputError, SettingError
from oodline.guard.graph import GuardGraph, trace
from oodline.model.zero_shot import ZeroShot, image_features

TEXT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def clip():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 30, "max_position_embeddings": 8, "eos_token_id": 29, "bos_token_id": 0},
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        projection_dim=12,
        logit_scale_init_value=3.0,
    )
    return transformers.CLIPModel(config).eval()


def test_the_head_is_the_scaled_cosine():
    head = ol.TextHead(TEXT, scale=7, bias=-2.0)
    expected = 7 * nn.functional.cosine_similarity(IMAGES[:, None], TEXT[None], dim=2) - 2
    torch.testing.assert_close(head(nn.functional.normalize(IMAGES)), expected)
    assert not any(p.requires_grad for p in head.parameters())


def test_features_are_what_the_head_reads():
    classifier = ol.Classifier.zero_shot(nn.Flatten(), TEXT, names=["cat", "dog", "cow"])
    activations = classifier(IMAGES)
    torch.testing.assert_close(activations.features.norm(dim=1), torch.ones(6))
    assert torch.equal(activations.head(activations.features), activations.logits)
    assert (classifier.class_names, classifier.head_name) == (("cat", "dog", "cow"), "head")


def test_clip_of_transformers_gives_its_own_logits(clip):
    pixels, ids = torch.randn(4, 3, 8, 8), torch.randint(1, 29, (5, 6))
    with torch.no_grad():
        theirs = clip(input_ids=ids, pixel_values=pixels)
    classifier = ol.Classifier.zero_shot(clip, theirs.text_embeds)
    activations = classifier(pixels)
    torch.testing.assert_close(activations.logits, theirs.logits_per_image)
    torch.testing.assert_close(activations.features, theirs.image_embeds)
    assert torch.equal(classifier({"pixel_values": pixels}).logits, activations.logits)
    knn = ol.KNN(k=2).fit(classifier, [pixels])
    guard = ol.Guard(classifier, knn).calibrate([torch.randn(20, 3, 8, 8)])
    with torch.no_grad():
        scores = trace(GuardGraph(guard), pixels).module()(pixels)[2]
    torch.testing.assert_close(scores, guard(pixels).score)


def test_siglip_brings_its_bias():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.SiglipModel(
        transformers.SiglipConfig(
            text_config={**tower, "vocab_size": 30, "max_position_embeddings": 8},
            vision_config={**tower, "image_size": 8, "patch_size": 4},
        )
    ).eval()
    nn.init.constant_(model.logit_scale, 2.0)
    nn.init.constant_(model.logit_bias, -3.0)
    pixels = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        theirs = model(input_ids=torch.randint(1, 29, (5, 6)), pixel_values=pixels)
    ours = ol.Classifier.zero_shot(model, theirs.text_embeds)
    torch.testing.assert_close(ours(pixels).logits, theirs.logits_per_image)


class OpenClipKind(nn.Module):
    """What models of open_clip have."""

    def __init__(self):
        super().__init__()
        self.visual, self.logit_scale = nn.Linear(4, 4), nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images):
        return self.visual(images)


def test_open_clip_functions_and_bound_methods():
    model = OpenClipKind()
    expected = (
        2.0**0
        * torch.tensor(2.0).exp()
        * nn.functional.cosine_similarity(model.visual(IMAGES)[:, None], TEXT[None], dim=2)
    )
    for encoder in (model, model.encode_image):
        classifier = ol.Classifier.zero_shot(encoder, TEXT)
        torch.testing.assert_close(classifier(IMAGES).logits, expected)
        assert "encoder.visual.weight" in classifier.model.state_dict()
    plain = ol.Classifier.zero_shot(lambda images: 2 * images, TEXT, scale=5)
    torch.testing.assert_close(plain(IMAGES).logits, ol.TextHead(TEXT, 5)(nn.functional.normalize(IMAGES)))


def test_a_factory_may_return_the_module_for_the_command_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch, oodline as ol\n"
        "def build():\n"
        "    return ol.ZeroShot(torch.nn.Flatten(), ol.TextHead(torch.eye(2, 3)), ['cat', 'dog'])\n"
    )
    classifier = ol.Classifier.load(f"python:{file}:build", device="cpu")
    assert (classifier.class_names, classifier.head_name) == (("cat", "dog"), "head")
    assert classifier(torch.eye(3)).logits.tolist() == [[100, 0], [0, 100], [0, 0]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"features of shape \(6, 4\), and the text features have 3 numbers"):
        ol.Classifier.zero_shot(nn.Flatten(), torch.eye(3))(IMAGES)
    with pytest.raises(SettingError, match="one per class; got 2 for 3"):
        ZeroShot(nn.Flatten(), ol.TextHead(TEXT), ["a", "b"])
    with pytest.raises(SettingError, match="`scale` must be a number above 0; got 0"):
        ol.TextHead(TEXT, scale=0)
    with pytest.raises(DataError, match=r"`text_features` must be vectors, one per row, \(N, D\); got shape \(4,\)"):
        ol.TextHead(TEXT[0])
    with pytest.raises(SettingError, match="must be a module or a function"):
        ZeroShot(3, ol.TextHead(TEXT))
    with pytest.raises(InputError, match="must return image features"):
        image_features(3)
