"""NAC against gradients by autograd, one sample at a time, and counting one neuron at a time."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from oodline import Classifier, Guard, fit, score
from oodline.detectors.catalog import create_detector
from oodline.detectors.nac import NAC, Layer, edges
from oodline.detectors.parts.neuron_states import layer_states, neuron_states
from oodline.errors import HeadError, InputError, SettingError
from oodline.guard.artifact import read_artifact
from oodline.model.activations import Needs
from oodline.passes.fit import reads
from oodline.testing import activations_of

LAYERS = {"first": (30.0, 20, 3), "second": (2.0, 6, 5), "tokens": (5.0, 10, 4)}
ALPHAS = {name: alpha for name, (alpha, _, _) in LAYERS.items()}
WHOLE = Needs.INPUTS | Needs.CLASSIFIER


class Net(nn.Module):
    """Two maps of different width and size, then tokens, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3, stride=2)
        self.tokens, self.fc = nn.Linear(7, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.second(torch.relu_(self.first(x))))
        return self.fc(self.tokens(x.flatten(2).transpose(1, 2)).relu().mean(1))


@pytest.fixture
def net() -> Classifier:
    return Classifier(Net())


def images(seed: int, n: int) -> Tensor:
    return torch.randn(n, 3, 9, 8, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def states_of(case, f: np.ndarray, alpha: float) -> np.ndarray:
    states = []
    for x in torch.from_numpy(f):
        x = x.clone().requires_grad_()
        z = torch.from_numpy(case.W) @ x + torch.from_numpy(case.b)
        (-torch.log_softmax(z, 0).mean()).backward()  # KL(uniform, softmax) up to a constant
        states.append(sigmoid(alpha * (x * x.grad).detach().numpy()))
    return np.array(states)


def layer_states_of(model: nn.Module, x: Tensor, name: str, alpha: float) -> np.ndarray:
    """One sample at a time, one channel at a time, in float64."""
    model, rows = model.double(), []
    for image in x.double():
        kept: list[Tensor] = []

        def keep(_m, _args, out, kept=kept):
            kept.append(out)
            return out.clone()

        handle = model.get_submodule(name).register_forward_hook(keep)
        p = torch.softmax(model(image[None])[0], 0)
        handle.remove()
        divergence = sum((1 / len(p)) * torch.log((1 / len(p)) / q) for q in p)
        (gradient,) = torch.autograd.grad(divergence, kept[0])
        # channels first: a map has them there, tokens have them last
        order = (0, 1, 2) if kept[0].ndim == 4 else (1, 0)
        a, g = (v[0].detach().permute(order).numpy() for v in (kept[0], gradient))
        rows.append([sigmoid(alpha * float(a[k].sum()) * float(g[k].sum())) for k in range(len(a))])
    model.float()
    return np.array(rows)


def edges_of(M: int) -> list[float]:
    """The authors' thresholds without the ends 0, 1.01 and 1.2, of which nothing lies outside."""
    left = [np.log(1 + (np.sqrt(1000) - 1) * i / (M // 2 - 1)) / np.log(1000) for i in range(M // 2)]
    return left[1:] + [1 - edge for edge in left[-2:0:-1]]


def coverage_of(train: np.ndarray, test: np.ndarray, inner: np.ndarray, full: int) -> np.ndarray:
    def place(state: float) -> int:
        return int(sum(state >= edge for edge in inner))

    seen = [[place(state) for state in neuron] for neuron in train.T]
    return np.array([np.mean([min(seen[d].count(place(s)) / full, 1) for d, s in enumerate(row)]) for row in test])


@pytest.mark.parametrize("alpha", [1.0, 100.0])
@pytest.mark.parametrize("seed", range(2))
def test_states_are_activation_times_gradient(draw, seed, alpha):
    case = draw(seed, signed=True)
    expected = states_of(case, case.f, alpha)
    np.testing.assert_allclose(neuron_states(case.activations, alpha), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_states_of_a_layer_are_summed_over_space_before_they_are_multiplied(net, name):
    x = images(0, 9)
    [found] = layer_states(net(x, needs=WHOLE), {name: 300.0})
    expected = layer_states_of(net.model, x, name, 300.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.std() > 0.01


@pytest.mark.parametrize(("bins", "full"), [(4, 1), (10, 5), (50, 50)])
@pytest.mark.parametrize("signed", [False, True])
def test_equals_counting(draw, signed, bins, full):
    case, other = draw(0, signed=signed), draw(100, signed=signed)
    detector = case.fit(NAC(alpha=3.0, bins=bins, full=full))
    activations = activations_of(other.features, case.head)
    states = [neuron_states(a, 3.0).numpy() for a in (case.activations, activations)]
    expected = coverage_of(*states, edges(bins).numpy(), full)
    np.testing.assert_allclose(detector(activations), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [["first"], ["tokens", "second"], ["second", "first", "tokens"]])
def test_layers_count_as_much_as_the_penultimate_one(net, names):
    train, test = net(images(0, 40), needs=WHOLE), net(images(1, 12), needs=WHOLE)
    detector = NAC(alpha=50.0, bins=10, full=6, layers={name: LAYERS[name] for name in names})
    detector.fit(net, images(0, 40).split(7))
    parts = [coverage_of(*(neuron_states(a, 50.0).numpy() for a in (train, test)), edges(10).numpy(), 6)]
    for name in names:
        _, bins, full = LAYERS[name]
        states = [layer_states(a, {name: ALPHAS[name]})[0].numpy() for a in (train, test)]
        parts.append(coverage_of(*states, edges(bins).numpy(), full))
    np.testing.assert_allclose(detector(test), np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bins", [4, 50, 1000])
def test_edges_are_those_of_the_authors(bins):
    found = edges(bins)
    np.testing.assert_allclose(found, edges_of(bins), rtol=0, atol=1e-6)
    assert len(found) == bins - 3
    assert float(found[len(found) // 2]) == 0.5  # exactly: the state of a neuron at rest


def test_a_neuron_at_rest_falls_in_the_bin_above_the_middle(draw):
    case = draw(0)
    rest = activations_of(torch.zeros(3, 12), case.head)
    assert NAC(bins=4)._bins.places(rest).unique().tolist() == [1]


def test_a_reservoir_bounds_what_is_counted(net):
    whole = NAC(samples=10, layers=LAYERS)
    parts = [NAC(samples=10, layers=LAYERS) for _ in range(2)]
    x, filled = images(0, 30), []
    for detector, rows in zip((whole, *parts), ([range(30)], [range(12)], [range(12, 30)]), strict=True):
        statistic = detector._requests(net.head)["bins"]
        for part in rows:
            activations = net(x[list(part)], **reads([detector]), index=torch.tensor(list(part)))
            statistic.update(activations, None)
        filled.append(statistic)
    assert filled[0].rows.shape == (10, 6 + 5 + 7 + 6)
    assert torch.equal(filled[2].merge(filled[1]).rows, filled[0].rows)


def test_one_backward_pass_serves_all_layers(net):
    calls: list[tuple[str, ...]] = []
    gradients = net.gradients

    def counted(inputs, scalar, *, layers=()):
        calls.append(tuple(layers))
        return gradients(inputs, scalar, layers=layers)

    net.gradients = counted
    detector = NAC(layers=LAYERS)
    fit([detector], net, [images(0, 20)])
    score(detector, net, [images(1, 5)])
    assert calls == [tuple(LAYERS), tuple(LAYERS)]


def test_the_classifier_is_needed_only_where_layers_are_asked_for():
    assert NAC().all_needs == NAC.needs
    assert NAC(layers=LAYERS).all_needs == NAC.needs | WHOLE
    assert NAC(layers=LAYERS).all_layers == tuple(LAYERS)


def test_settings_survive_json_the_command_line_and_a_file(net, tmp_path):
    written = json.dumps({name: list(values) for name, values in LAYERS.items()})
    detector = create_detector(f"nac,full=4,layers={written},samples=25")
    assert detector.settings["layers"] == LAYERS
    assert create_detector(f"nac,layers={json.dumps(detector.settings['layers'])}").layers == LAYERS
    guard = Guard(net, detector.fit(net, [images(0, 30)])).calibrate([images(1, 30)])
    guard.save(tmp_path / "nac.safetensors")
    again = read_artifact(tmp_path / "nac.safetensors").detectors["nac"]
    assert again.settings == detector.settings
    assert isinstance(again.layers["first"], Layer)
    activations = net(images(2, 9), **reads([again]))
    assert torch.equal(again(activations), detector(activations))


def test_presets_name_modules_of_the_networks_they_are_for():
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising on a device without data
        networks = {
            "resnet18": torchvision.models.resnet18(),
            "resnet50": torchvision.models.resnet50(),
            "vit-b16": torchvision.models.vit_b_16(),
        }
    for name, preset in NAC.presets.items():
        _, network, *alone = name.split("-", 2) if "vit" not in name else ("", "vit-b16", *name.split("-")[3:])
        modules = dict(networks[network].named_modules())
        layers = preset.settings.get("layers", {})
        assert len(layers) == (0 if alone else 3)
        assert all(layer in modules for layer in layers)


def test_a_preset_fits_its_network():
    torch.manual_seed(0)
    classifier = Classifier(torchvision.models.resnet18(num_classes=10))
    x = torch.randn(4, 3, 16, 16)
    detector = NAC.preset("cifar10-resnet18").fit(classifier, [x])
    sizes = [48 * 512, 498 * 256, 48 * 128, 498 * 64]
    assert len(detector.coverage) == sum(sizes)
    # whatever its width, each layer counts for a quarter of each of the four samples
    per_layer = [part.sum() for part in detector.coverage.split(sizes)]
    torch.testing.assert_close(torch.stack(per_layer) * torch.tensor([50, 100, 5, 100]), torch.ones(4))


@pytest.mark.parametrize("setting", [{"alpha": 0}, {"bins": 3}, {"bins": 2}, {"full": 0}, {"samples": 0}])
def test_invalid_settings(setting):
    with pytest.raises(SettingError, match=r"`(alpha|bins|full|samples)` must (be|have) .*; got "):
        NAC(**setting)


@pytest.mark.parametrize("values", [(0.0, 50, 50), (1.0, 3, 50), (1.0, 50, 0)])
def test_invalid_settings_of_a_layer_name_it(values):
    with pytest.raises(SettingError, match=r"`(alpha|bins|full)` must be .* for layer 'layer3'; got "):
        NAC(layers={"layer3": values})


@pytest.mark.parametrize("written", ["layer3", '{"layer3":1}', '{"layer3":[1]}', '["layer3"]'])
def test_layers_without_settings_are_refused(written):
    with pytest.raises(SettingError, match=r"`layers` must be .*; got "):
        create_detector(f"nac,layers={written}")


def test_a_layer_that_is_not_there_or_of_another_shape(net):
    with pytest.raises(HeadError, match="no module named 'third'"):
        NAC(layers={"third": (1.0, 4, 1)}).fit(net, [images(0, 5)])
    flat = Classifier(nn.Sequential(nn.Unflatten(1, (1, 1, 2, 3)), nn.Flatten(), nn.Linear(6, 2)))
    with pytest.raises(HeadError, match=r"output of '0' has shape \(5, 1, 1, 2, 3\)"):
        NAC(layers={"0": (1.0, 4, 1)}).fit(flat, [torch.randn(5, 6)])
    with pytest.raises(InputError, match="hold no classifier"):
        detector = NAC(layers=LAYERS).fit(net, [images(0, 5)])
        detector(net(images(0, 5)))
