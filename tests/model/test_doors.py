"""A guard made in Python carries class names and preprocessing everywhere that one of the command line does."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
import transformers
from fastapi.testclient import TestClient
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as v1

import oodline as ol
from oodline.cli.options import ModelOptions, load_classifier
from oodline.data import open_loader
from oodline.errors import ModelError, SettingError
from oodline.model.zoo import load_model
from oodline.preprocessing.comparison import test_images as pictures
from oodline.serve import create_app

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COMPOSED = v1.Compose([v1.Resize(12), v1.CenterCrop(8), v1.ToTensor(), v1.Normalize(MEAN, STD)])
OURS = ol.Preprocessing(resize=12, crop=(8, 8), mean=MEAN, std=STD)


@pytest.fixture
def images(tmp_path) -> Path:
    for name, colour in (("blue", 2), ("green", 1), ("red", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 80, (14, 16, 3), dtype=np.uint8)
            pixels[..., colour] += 120
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def classifier() -> ol.Classifier:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return ol.Classifier(nn.Sequential(*body, nn.Linear(12, 3)))


@pytest.fixture
def guard(classifier, images) -> ol.Guard:
    loader = DataLoader(datasets.ImageFolder(images, COMPOSED), batch_size=20)
    line = ol.LINe(p_a=0.1, p_w=0.1, clip="90%").fit(classifier, loader)
    with pytest.warns(ol.SeenDataWarning):
        return ol.Guard(classifier, line, preprocessing=COMPOSED).calibrate(loader)


def test_a_guard_of_a_compose_is_saved_served_explained_and_exported(guard, images, tmp_path):
    assert guard.preprocessing == OURS
    assert guard.class_names == ("blue", "green", "red")  # of the data set
    again = ol.Guard.load(guard.save(tmp_path / "guard.safetensors"), guard.classifier)
    assert (again.preprocessing, again.class_names) == (OURS, guard.class_names)

    file = images / "red" / "3.png"
    expected = again(COMPOSED(Image.open(file)).unsqueeze(0)).rows()[0]
    with TestClient(create_app(again), base_url="http://127.0.0.1") as client:
        verdict = client.post("/v1/predict", content=file.read_bytes(), headers={"content-type": "image/png"})
        explained = client.post("/v1/explain", content=file.read_bytes(), headers={"content-type": "image/png"})
    assert verdict.json()["verdicts"][0]["class_name"] == expected["class_name"]
    assert verdict.json()["verdicts"][0]["score"] == pytest.approx(expected["score"], rel=1e-5)
    assert explained.json()["predicted_class_name"] in guard.class_names

    again.export_onnx(tmp_path / "guard.onnx", torch.randn(2, 3, 8, 8))
    model = onnx.load(tmp_path / "guard.onnx")
    stated = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert stated["class_names"] == ["blue", "green", "red"]
    recipe = stated["preprocessing"]
    # a consumer that knows the words and not oodline
    image = v1.Resize(recipe["resize"], v1.InterpolationMode(recipe["interpolation"]))(Image.open(file).convert("RGB"))
    pixels = v1.Compose([v1.CenterCrop(recipe["crop"]), v1.ToTensor(), v1.Normalize(recipe["mean"], recipe["std"])])
    torch.testing.assert_close(pixels(image), COMPOSED(Image.open(file)))
    assert (recipe["channel_order"], recipe["input_size"], recipe["layout"]) == ("RGB", [8, 8], "NCHW")
    for tensor in (*model.graph.input, *model.graph.output):
        first, *rest = tensor.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(size.dim_value > 0 for size in rest)
    inner = {size.dim_param for value in model.graph.value_info for size in value.type.tensor_type.shape.dim}
    assert not any(name.startswith("s") and name[1:].isdigit() for name in inner)


def test_pixels_inside_are_said_to_be_so(guard, tmp_path):
    guard.export_onnx(tmp_path / "g.onnx", torch.randint(0, 256, (2, 3, 8, 8)).byte(), preprocessing=OURS)
    model = onnx.load(tmp_path / "g.onnx")
    stated = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert stated["preprocessing"]["input"] == "pixels, uint8 or in [0, 1]"
    assert stated["oodline"]["preprocessing_inside"]["mean"] == list(MEAN)


def test_a_loader_of_oodline_says_how_it_prepares_images(classifier, images):
    loader = open_loader(str(images), OURS)
    guard = ol.Guard(classifier, ol.Energy()).calibrate(loader)
    assert (guard.preprocessing, guard.class_names) == (OURS, ("blue", "green", "red"))


def test_a_guard_refuses_a_transform_that_it_cannot_carry(classifier):
    chance = v1.Compose([v1.RandomCrop(8), v1.ToTensor()])
    with pytest.raises(SettingError, match="the step RandomCrop cannot be expressed"):
        ol.Guard(classifier, ol.Energy(), preprocessing=chance)
    with pytest.raises(SettingError, match="preprocessing must be a Preprocessing, a torchvision or timm transform"):
        ol.Guard(classifier, ol.Energy(), preprocessing="resnet")


def test_a_service_takes_a_transform_too(guard):
    guard.preprocessing = None
    with pytest.raises(SettingError, match="has no preprocessing for images"):
        create_app(guard)
    file = BytesIO()
    pictures()["a landscape"].save(file, "PNG")
    with TestClient(create_app(guard, COMPOSED), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/predict", content=file.getvalue(), headers={"content-type": "image/png"})
    expected = guard(COMPOSED(pictures()["a landscape"]).unsqueeze(0))
    assert answer.json()["verdicts"][0]["score"] == pytest.approx(float(expected.score), rel=1e-4)


def test_python_loads_a_classifier_as_the_command_line_does():
    reference = "torchvision:resnet18,pretrained=false"
    ours, theirs = ol.Classifier.load(reference), load_classifier(ModelOptions(model=reference))
    assert ours.preprocessing == theirs.preprocessing == ol.load_model(reference).preprocessing
    assert ours.class_names == theirs.class_names and len(ours.class_names) == 1000
    assert ours.head_name == theirs.classifier.head_name == "fc"
    guard = ol.Guard(ours, ol.Energy())
    assert (guard.preprocessing, guard.class_names) == (ours.preprocessing, ours.class_names)
    assert ol.Guard(ol.Classifier.load(reference + ",num_classes=7"), ol.Energy()).class_names is None


def test_names_of_a_transformers_model_are_those_of_its_configuration():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    named = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, id2label={0: "cat", 1: "dog", 2: "emu"})
    unnamed = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=3)
    for config, names in ((named, ("cat", "dog", "emu")), (unnamed, None)):
        model = transformers.ViTForImageClassification(config)
        assert ol.Guard(ol.Classifier(model, "classifier"), ol.Energy()).class_names == names


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_384"])
def test_a_grey_timm_model_has_grey_preprocessing(name):
    loaded = load_model(f"timm:{name},pretrained=false,in_chans=1")
    ours = loaded.preprocessing
    assert ours.mode == "L"
    stated = loaded.model.pretrained_cfg
    assert ours.mean == pytest.approx([np.mean(stated["mean"])]) and ours.std == pytest.approx([np.mean(stated["std"])])
    config = timm.data.resolve_data_config(pretrained_cfg=stated) | {"mean": ours.mean, "std": ours.std}
    transform = timm.data.create_transform(**config, is_training=False)
    grey = pictures()["a landscape"].convert("L")
    torch.testing.assert_close(ours(grey), transform(grey))
    assert loaded.model(ours(grey).unsqueeze(0)).shape == (1, 1000)


def test_the_size_of_a_timm_model_is_that_of_its_options():
    ours = load_model("timm:vit_tiny_patch16_224,pretrained=false,img_size=160").preprocessing
    assert ours.input_size == (160, 160)
    ours = load_model("timm:vit_tiny_patch16_224,pretrained=false,img_size=[96,128]").preprocessing
    assert ours.input_size == (96, 128)


def test_channels_that_images_do_not_have_are_refused_unless_somebody_says_how():
    reference = "timm:resnet18,pretrained=false,in_chans=4"
    with pytest.raises(ModelError, match="it takes 4 channels, and images have 3"):
        load_model(reference)
    assert load_model(reference, preprocessing=OURS).preprocessing == OURS


@pytest.mark.parametrize("channels", [1, 4])
def test_the_channels_of_a_transformers_model_are_asked_for(tmp_path, monkeypatch, channels):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, num_channels=channels)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size=32, image_mean=[0.4] * channels, image_std=[0.3] * channels)
    processor.save_pretrained(tmp_path)
    if channels == 4:
        with pytest.raises(ModelError, match="it takes 4 channels, and images have 3"):
            load_model(f"hf:{tmp_path}")
        return
    ours = load_model(f"hf:{tmp_path}").preprocessing
    grey = pictures()["a landscape"].convert("L")
    assert ours.mode == "L"
    expected = processor(grey, return_tensors="pt")["pixel_values"][0]
    assert float((ours(grey) - expected).abs().mean()) < 1e-2


def test_torchvision_weights_are_chosen_by_name():
    first, second = (
        load_model(f"torchvision:resnet50,pretrained=false,weights=IMAGENET1K_V{i}").preprocessing for i in (1, 2)
    )
    assert (first.resize, second.resize) == (256, 232)
    with pytest.raises(ModelError, match=r"unknown weights of resnet50 'IMAGENET1K_V3'\. Did you mean 'IMAGENET1K_V"):
        load_model("torchvision:resnet50,pretrained=false,weights=IMAGENET1K_V3")


def test_weights_of_a_file_may_be_others_than_the_newest(tmp_path):
    model = load_model("torchvision:mobilenet_v2,pretrained=false").model
    torch.save(model.state_dict(), tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="in several ways, by its weights; that of .*V2 is used.*=IMAGENET1K_V1"):
        load_model("torchvision:mobilenet_v2", tmp_path / "w.pt")
    load_model("torchvision:mobilenet_v2,weights=IMAGENET1K_V1", tmp_path / "w.pt")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A transformers classifier as `save_pretrained` writes it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_processor_on_the_hub_is_followed_or_refused(folder):
    for settings in (
        {"size": {"shortest_edge": 384}},
        {"size": {"shortest_edge": 64}, "crop_pct": 0.9},
    ):
        processor = transformers.ConvNextImageProcessor(**settings)
        processor.save_pretrained(folder)
        ours = load_model(f"hf:{folder}").preprocessing
        picture = pictures()["a long portrait"]
        expected = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert float((ours(picture) - expected).abs().mean()) < 1e-2


ODD = {
    "null": {"image_processor_type": "ConvNextImageProcessor", "crop_pct": None, "size": {"shortest_edge": 64}},
    "an edge nobody reads": {"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 64}},
    "no such class": {"image_processor_type": "NoSuchImageProcessor"},
    "a size of text": {"image_processor_type": "ViTImageProcessor", "size": "large"},
    "a mean of text": {"image_processor_type": "ViTImageProcessor", "image_mean": "grey"},
    "a list": [1, 2],
    "patches": {"image_processor_type": "Siglip2ImageProcessor"},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_configuration_is_followed_or_ends_in_a_sentence(folder, name):
    (folder / "preprocessor_config.json").write_text(json.dumps(ODD[name]))
    try:
        ours = load_model(f"hf:{folder}").preprocessing
    except ModelError as error:
        assert "how hf:" in str(error) and "--preprocessing" in str(error)
        assert load_model(f"hf:{folder}", preprocessing=OURS).preprocessing == OURS
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        picture = pictures()["a landscape"]
        expected = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert float((ours(picture) - expected).abs().mean()) < 1e-2


def test_a_damaged_configuration_ends_in_a_sentence(folder):
    (folder / "preprocessor_config.json").write_text('{"size": ')
    with pytest.raises(ModelError, match=r"how hf:.* prepares images is not known: its image processor cannot be made"):
        load_model(f"hf:{folder}")


def test_a_python_model_may_state_a_transform(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\nfrom torchvision import transforms as tv\n"
        "def build():\n    model = nn.Linear(3, 2)\n"
        "    model.preprocessing = tv.Compose([tv.Resize(12), tv.ToTensor()])\n    return model\n"
    )
    assert load_model(f"python:{tmp_path}/own.py:build").preprocessing == ol.Preprocessing(resize=12)
