"""Maps against loops over neurons and places, and against finite differences where there is no closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from oodline.detectors.map_agreement import MapAgreement
from oodline.errors import HeadError, InputError, SettingError
from oodline.explain.maps import place_maps
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.testing.toys import toy_network

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4) % 3


class Tokens(nn.Module):
    """A transformer of two blocks on patches of 2 x 2, whose class token is classified."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def test_on_a_pooled_head_a_map_is_the_weighted_feature_map():
    classifier = Classifier(toy_network())
    weights = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))
    A = classifier(IMAGES, needs=Needs.FEATURE_MAP).feature_map.numpy()
    found = place_maps(classifier, IMAGES, weights)
    assert found.exact and found.start.module == "2"
    for m in range(2):
        for n in range(4):
            expected = np.zeros((6, 6))
            for d in range(16):
                expected += float(weights[m, n, d]) * A[n, d] / 36
            np.testing.assert_allclose(found.values[m, n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["normalised", "tokens"])
def test_elsewhere_it_is_activation_times_gradient(network):
    torch.manual_seed(0)
    if network == "tokens":
        model = Tokens().eval().double()
        side, last = 4, model.blocks[3]
    else:  # as ConvNeXt: a normalisation between pooling and head
        layers = [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3)]
        model = nn.Sequential(*layers).double()
        side, last = 6, model[1]
    classifier, images = Classifier(model), IMAGES[:2].double()
    weights = torch.randn(1, 2, 8, dtype=torch.float64)
    found = place_maps(classifier, images, weights)
    assert not found.exact and found.values.shape == (1, 2, side, side)
    held = {}
    hook = last.register_forward_pre_hook(lambda _m, args: held.update(x=args[0].detach().clone()))
    classifier(images)
    hook.remove()

    def features(x):
        hook = last.register_forward_pre_hook(lambda _m, _args: (x,))
        try:
            return classifier(images).features
        finally:
            hook.remove()

    expected, step = np.zeros((2, side * side)), 1e-5
    for place in range(side * side):
        # all channels of a place, each scaled by itself: the sum of activation times slope
        x, y = held["x"].clone(), held["x"].clone()
        for z, sign in ((x, 1), (y, -1)):
            (z[:, 1 + place] if network == "tokens" else z.flatten(2)[:, :, place]).mul_(1 + sign * step)
        expected[:, place] = ((features(x) - features(y)) * weights[0]).sum(1).detach().numpy() / (2 * step)
    np.testing.assert_allclose(found.values[0].flatten(1), expected, rtol=1e-4, atol=1e-7)


def test_maps_leave_the_network_and_the_switch_of_gradients_as_they_are():
    classifier = Classifier(toy_network())
    before = classifier(IMAGES).logits
    place_maps(classifier, IMAGES, torch.ones(1, 4, 16), layer="0")
    assert torch.is_grad_enabled()
    assert torch.equal(classifier(IMAGES).logits, before)
    assert all(p.grad is None and p.requires_grad for p in classifier.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.model.modules())


def test_a_network_without_places_is_refused():
    vectors = Classifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(InputError, match="keeps the places of an image"):
        place_maps(vectors, torch.ones(2, 4), torch.ones(1, 2, 8))
    with pytest.raises(HeadError, match="no module named 'nothing'"):
        place_maps(Classifier(toy_network()), IMAGES, torch.ones(1, 4, 16), layer="nothing")
    with pytest.raises(SettingError, match=r"`weights` must be \(M, 4, 16\)"):
        place_maps(Classifier(toy_network()), IMAGES, torch.ones(1, 1, 16))


def test_map_agreement_equals_the_formula():
    classifier, top = Classifier(toy_network()), 3
    detector = MapAgreement(neurons=top).fit(classifier, [(IMAGES, LABELS)])
    activations = classifier(IMAGES, needs=Needs.FEATURE_MAP)
    W = classifier.head.weight.double().numpy(force=True)
    f, A = activations.features.double().numpy(), activations.feature_map.double().numpy()
    expected = []
    for n in range(4):
        c = int(activations.logits[n].argmax())
        maps = []
        for contribution in (W[c] * f[LABELS.numpy() == c].mean(0), W[c] * f[n]):
            chosen = sorted(range(16), key=lambda d: -contribution[d])[:top]
            maps.append(sum(max(contribution[d], 0) * A[n, d] for d in chosen).flatten())
        expected.append(maps[0] @ maps[1] / np.linalg.norm(maps[0]) / np.linalg.norm(maps[1]))
    np.testing.assert_allclose(detector(activations), expected, rtol=1e-4)
    # a map that is 0 everywhere agrees with nothing
    empty = activations.replace(feature_map=torch.zeros(4, 16, 6, 6))
    assert detector(empty).tolist() == [0, 0, 0, 0]


def test_images_whose_neurons_are_found_elsewhere_agree_less():
    # two neurons of the class at the left; an image in which another one, at the right, gives the same logit
    maps = torch.zeros(20, 3, 2, 2)
    maps[:, :2, :, 0] = 1 + 0.1 * torch.rand(20, 2, 2, generator=torch.Generator().manual_seed(0))
    head = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    classifier = Classifier(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))
    detector = MapAgreement(neurons=2).fit(classifier, [(maps, torch.arange(20) % 2)])
    other = maps[:1] * torch.tensor([1.0, 0.2, 0.0])[:, None, None]
    other[:, 2, :, 1] = 2
    usual, unusual = (detector(classifier(x, needs=Needs.FEATURE_MAP)) for x in (maps, other))
    assert usual.min() > 0.99 and unusual.max() < 0.7
