"""A reference becomes a model with its preprocessing; weights that do not fit, or would run code, are refused."""

import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from transformers import ConvNextImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from oodline.errors import ModelError, OodlineError
from oodline.model.zoo import load_model, load_weights
from oodline.preprocessing.preprocessing import Preprocessing

OWN = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Sizes:  # dataclasses look their module up
    width: int = 4

class Net(nn.Sequential):
    preprocessing = {"resize": 8, "crop": 8, "mean": [0.5], "std": [0.25], "mode": "L"}
    class_names = ["cat", "dog"]

def build(num_classes=2, width=4):
    return Net(nn.Linear(Sizes(width).width, num_classes)).train()

def odd():
    model = build()
    model.preprocessing = {"size": 8}
    return model

def number():
    return 3

def failing():
    raise OSError("no such disk")
"""


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own_models.py"
    path.write_text(OWN)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A transformers model as `save_pretrained` writes it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=16, id2label={0: "cat", 1: "dog", 2: "emu"})
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_timm_model_comes_with_its_preprocessing_and_head():
    loaded = load_model("timm:resnet18.a1_in1k,pretrained=false,num_classes=5")
    assert loaded.model.fc.out_features == 5
    assert not loaded.model.training
    assert (loaded.head, loaded.class_names) == ("fc", None)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert loaded.preprocessing == Preprocessing(
        resize=235, crop=(224, 224), mean=mean, std=std, interpolation="bicubic"
    )


def test_a_torchvision_model_comes_with_its_preprocessing_and_class_names():
    loaded = load_model("torchvision:mobilenet_v3_small,pretrained=false")
    assert not loaded.model.training
    assert loaded.class_names[:2] == ("tench", "goldfish")
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (256, 224)
    assert load_model("torchvision:mobilenet_v3_small,pretrained=false,num_classes=5").class_names is None


def test_torchvision_preprocessing_is_the_transform_of_its_weights():
    from PIL import Image

    image = Image.effect_noise((300, 260), 80).convert("RGB")
    stated = load_model("torchvision:resnet18,pretrained=false").preprocessing(image)
    torch.testing.assert_close(stated, models.ResNet18_Weights.DEFAULT.transforms()(image))


def test_a_hugging_face_folder_is_a_model_with_class_names(folder):
    loaded = load_model(f"hf:{folder}")
    assert loaded.class_names == ("cat", "dog", "emu")
    assert loaded.preprocessing is None
    original = ViTForImageClassification.from_pretrained(folder).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(images).logits, original(images).logits)
    untrained = load_model(f"hf:{folder},pretrained=false").model
    assert not torch.equal(untrained(images).logits, original(images).logits)


def test_hugging_face_processors_become_preprocessing(folder):
    size = {"height": 32, "width": 24}
    ViTImageProcessor(size=size, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], resample=3).save_pretrained(
        folder
    )
    stated = load_model(f"hf:{folder}").preprocessing
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    assert stated == Preprocessing(resize=(32, 24), mean=mean, std=std, interpolation="bicubic")
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8).save_pretrained(folder)
    stated = load_model(f"hf:{folder}").preprocessing
    assert (stated.resize, stated.crop) == (40, (32, 32))


def test_a_truncated_or_missing_hugging_face_model_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"could not be built with .*incomplete metadata, file not fully covered"):
        load_model(f"hf:{folder}")
    weights.unlink()
    with pytest.raises(ModelError, match=r"no file named model.safetensors"):
        load_model(f"hf:{folder}")
    with pytest.raises(ModelError, match=r"hf:.*nowhere could not be built"):
        load_model(f"hf:{folder}/nowhere")


def test_a_factory_in_a_file_or_a_module_is_called_with_its_options(own, monkeypatch):
    loaded = load_model(f"python:{own}:build,num_classes=3,width=7")
    assert loaded.model[0].weight.shape == (3, 7)
    assert not loaded.model.training
    assert loaded.class_names == ("cat", "dog")
    assert loaded.preprocessing == Preprocessing(resize=8, crop=8, mean=(0.5,), std=(0.25,), mode="L")
    monkeypatch.syspath_prepend(own.parent)
    try:
        assert load_model("python:own_models:build,width=5").model[0].weight.shape == (2, 5)
    finally:
        del sys.modules["own_models"]
    assert load_model("python:torchvision.models:mobilenet_v3_small,num_classes=4").preprocessing is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{own}:bild", r"unknown factory in .*own_models.py 'bild'\. Did you mean 'build'\?"),
        ("{own}:odd", "`preprocessing` of the model of .*:odd is not a valid Preprocessing"),
        ("{own}:number", "gave a int, not an nn.Module"),
        ("{own}:failing", "could not be built with {}: OSError: no such disk"),
        ("{own}:build,colour=1", "unexpected keyword argument 'colour'"),
        ("{own}", "must name a file or module and a factory: python:my_models.py:build"),
        ("{own}x.py:build", r"there is no Python file .*own_models.pyx.py"),
        ("no_such_module:build", "no_such_module could not be imported: ModuleNotFoundError"),
    ],
)
def test_a_python_reference_that_leads_nowhere_is_refused(own, reference, message):
    with pytest.raises(ModelError, match=message):
        load_model(f"python:{reference.format(own=own)}")


def test_a_file_with_an_error_in_it_is_named_and_leaves_no_module(own):
    own.write_text("import nothing_of_the_kind")
    with pytest.raises(ModelError, match=r"own_models.py could not be imported: ModuleNotFoundError"):
        load_model(f"python:{own}:build")
    assert "oodline_user_own_models" not in sys.modules


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("timm:resnt18", r"unknown timm model 'resnt18'. Did you mean 'resnet18'\?$"),
        ("timm:resnet18.of_mine,pretrained=false", r"Invalid pretrained tag \(of_mine\)"),
        ("torchvision:resnet81", r"unknown torchvision model 'resnet81'. Did you mean 'resnet18'\?$"),
        ("torchvision:resnet18,pretrained=false,colour=1", "could not be built with .*keyword argument 'colour'"),
        ("tmm:resnet18", "'tmm:resnet18' does not say where the model comes from. Write timm:resnet50, torchvision:"),
        ("resnet18", "does not say where the model comes from"),
    ],
)
def test_an_unknown_scheme_name_or_option_is_refused_with_a_suggestion(reference, message):
    with pytest.raises(ModelError, match=message):
        load_model(reference)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded_and_nothing_is_fetched(ending, tmp_path):
    source = models.mobilenet_v3_small(num_classes=5)
    path = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(source.state_dict(), path)
    loaded = load_model("torchvision:mobilenet_v3_small,num_classes=5", path)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {}},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.model.{key}": value for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
        lambda state: {key: value.double() for key, value in state.items()},
    ],
)
def test_the_usual_wrappings_are_undone(wrap, net, tmp_path):
    torch.save(wrap(net.state_dict()), tmp_path / "w.pt")
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    load_weights(other, tmp_path / "w.pt")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in other.state_dict().items())


def test_prefixes_that_belong_to_the_model_are_kept(net, tmp_path):
    wrapped = nn.ModuleDict({"model": net})
    save_file(wrapped.state_dict(), tmp_path / "w.safetensors")
    load_weights(wrapped, tmp_path / "w.safetensors")
    load_weights(net, tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_are_listed_and_none_is_loaded(net, tmp_path):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = {"0.weight": torch.zeros(3, 5), "0.bias": torch.zeros(3), "fc.a": torch.zeros(1), "fc.b": torch.zeros(1)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load_weights(net, tmp_path / "w.safetensors")
    assert "4 missing (1.weight, 1.bias, 1.running_mean, ...)" in str(caught.value)
    assert "2 unexpected (fc.a, fc.b)" in str(caught.value)
    assert "1 of another shape (0.weight: file (3, 5), model (3, 4)). Check the model reference" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_would_run_code_are_refused_and_run_nothing(zipped, net, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "w.pt"
    torch.save({"0.weight": RunsCode(str(trace))}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"could run code, so it was not loaded. Save its state_dict as safetensors"):
        load_weights(net, path)
    path.write_bytes(pickle.dumps({"0.weight": RunsCode(str(trace))}, protocol=2))
    with pytest.raises(ModelError, match="could run code"):
        load_weights(net, path)
    torch.save(net, path)
    with pytest.raises(ModelError, match="could run code"):
        load_weights(net, path)
    assert not trace.exists()


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_truncated_foreign_or_missing_weight_file_is_refused(ending, net, tmp_path):
    path = tmp_path / f"w{ending}"
    with pytest.raises(ModelError, match="there is no weight file"):
        load_weights(net, path)
    (save_file if ending == ".safetensors" else torch.save)(net.state_dict(), path)
    content = path.read_bytes()
    for size in (0, 5, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match="truncated"):
            load_weights(net, path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ModelError):
        load_weights(net, path)
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds a list, not a dict of tensors"):
        load_weights(net, tmp_path / "list.pt")


def test_a_truncated_file_of_the_old_format_is_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pt").read_bytes()
    for size in range(0, len(content), 7):
        (tmp_path / "w.pt").write_bytes(content[:size])
        with pytest.raises(ModelError):
            load_weights(net, tmp_path / "w.pt")


@pytest.mark.parametrize("state", [{1: torch.zeros(1)}, {"0.weight": 3, "0.bias": None}])
def test_a_file_whose_dict_is_no_state_dict_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(OodlineError):
        load_weights(nn.Sequential(nn.Linear(4, 3)), tmp_path / "w.pt")


def test_a_web_page_saved_as_weights_is_not_said_to_run_code(net, tmp_path):
    (tmp_path / "w.pt").write_text("<html>404</html>")
    with pytest.raises(ModelError, match="is not a PyTorch weight file"):
        load_weights(net, tmp_path / "w.pt")


def test_a_processor_that_does_not_normalise_is_followed(folder):
    ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False).save_pretrained(folder)
    assert load_model(f"hf:{folder}").preprocessing == Preprocessing(resize=(32, 32))


def test_weights_that_cannot_be_fetched_are_given_or_left_out():
    from oodline._util.spec import Reference
    from oodline.model.libraries import _built

    def offline(options):
        raise OSError("no route to host")

    with pytest.raises(ModelError, match=r"no route to host\. Its weights .*\(--weights FILE.*x,pretrained=false\.$"):
        _built(Reference("timm", "x", {"pretrained": True}), offline)
    with pytest.raises(ModelError, match=r"no route to host$"):
        _built(Reference("timm", "x", {"pretrained": False}), offline)
