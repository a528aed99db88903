"""What follows the last layer is told by the numbers, and the message says what to return instead."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

import oodline as ol
from oodline.errors import HeadError


class Net(nn.Module):
    def __init__(self, after, classes=5):
        super().__init__()
        self.body, self.fc, self.after = nn.Linear(6, 8), nn.Linear(8, classes), after

    def forward(self, x):
        return self.after(self.fc(self.body(x).relu()))


class TwoHeads(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.a, self.b, self.after = nn.Linear(6, 5), nn.Linear(6, 5), after

    def forward(self, x):
        return self.after((self.a(x.relu()) + self.b(x.tanh())) / 2)


AFTER = {
    "softmax": (lambda o: o.softmax(1), r"softmax of the output of 'fc'\. Let it return that output, the logits"),
    "softmax, warm": (lambda o: (o / 2).softmax(1), "softmax of the output of 'fc' at a temperature of 2"),
    "log_softmax, warm": (lambda o: (o / 2).log_softmax(1), "log_softmax of the output of 'fc' at a temperature of 2"),
    "sigmoid": (torch.sigmoid, "sigmoid of the output of 'fc'"),
    "logsigmoid": (functional.logsigmoid, "logsigmoid of the output of 'fc'"),
    "tanh": (torch.tanh, "tanh of the output of 'fc'"),
    "temperature": (lambda o: o / 4, r"times 0.25 \(a temperature of 4\).*head='0.25\*fc'"),
    "opposite": (lambda o: -o, "times -1"),
    "soft cap": (lambda o: 3 * torch.tanh(o / 3), "a soft cap"),
    "ReLU": (torch.relu, "ReLU of the output of 'fc'"),
    "GELU": (functional.gelu, "GELU of the output of 'fc'"),
    "length": (lambda o: functional.normalize(o, dim=1), "L2 normalisation of the output of 'fc'"),
    "logit adjustment": (lambda o: o + torch.arange(5), "plus a constant of each class"),
    "batch norm": (lambda o: o * torch.arange(1, 6) - torch.arange(5), "scaled and shifted by class, as a BatchNorm1d"),
}


@pytest.mark.parametrize(("after", "message"), AFTER.values(), ids=list(AFTER))
@pytest.mark.parametrize("name", [None, "fc"])
def test_what_follows_the_head_is_named_and_the_head_is_not_offered_again(after, message, name):
    torch.manual_seed(0)
    with pytest.raises(HeadError, match=message) as caught:
        ol.Classifier(Net(after), name)(torch.randn(8, 6))
    assert "Candidates" not in str(caught.value)


def test_what_the_message_says_to_pass_is_taken():
    torch.manual_seed(0)
    model, x = Net(lambda o: o / 4), torch.randn(8, 6)
    activations = ol.Classifier(model, "0.25*fc")(x)
    torch.testing.assert_close(activations.head.weight, model.fc.weight.detach() / 4)
    torch.testing.assert_close(activations.logits, model(x).detach())


def test_log_softmax_is_served_by_the_logits_before_it():
    torch.manual_seed(0)
    plain, x = Net(lambda o: o), torch.randn(8, 6)
    served = Net(lambda o: o.log_softmax(1))
    served.load_state_dict(plain.state_dict())
    torch.testing.assert_close(ol.Classifier(served)(x).logits, ol.Classifier(plain)(x).logits)
    one = ol.Classifier(served)(x[:1])
    torch.testing.assert_close(ol.Energy()(one), ol.Energy()(ol.Classifier(plain)(x[:1])))


def test_softmax_of_one_sample_of_two_classes_is_told_too():
    with pytest.raises(HeadError, match="softmax"):
        ol.Classifier(Net(lambda o: o.softmax(1), 2))(torch.randn(1, 6))


def test_probabilities_of_two_heads_are_told():
    with pytest.raises(HeadError, match=r"returns softmax of 0.5\*b \+ 0.5\*a"):
        ol.Classifier(TwoHeads(lambda o: o.softmax(1)))(torch.randn(8, 6))


def test_nothing_that_fits_lists_only_layers_with_as_many_outputs_as_classes():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.other, self.last = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 7)

        def forward(self, x):
            return self.fc(x).square() + self.last(self.other(x)).sum(1, keepdim=True).exp()

    with pytest.raises(HeadError, match=r"output of 'last', shape \(8, 7\), is not the logits .* \(8, 5\)") as caught:
        ol.Classifier(Hidden())(torch.randn(8, 6))
    assert "5 -> 7" not in str(caught.value)
    assert "It has no other linear layer of 5 outputs" in str(caught.value)


def test_an_activation_before_pooling_is_why_squeezenet_has_no_linear_head():
    model = models.squeezenet1_0(num_classes=5).eval()
    with pytest.raises(
        HeadError, match=r"applies ReLU to the output of 'classifier.1' at each of 9 places .* the mean"
    ):
        ol.Classifier(model, "classifier.1")(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("pool", ["amax", "sum", "logsumexp"])
def test_other_ways_of_pooling_than_the_mean_are_named(pool):
    how = {"amax": "largest", "sum": "sum", "logsumexp": "log-sum-exp"}[pool]
    with pytest.raises(HeadError, match=f"returns the {how} of the outputs of 'fc' at 7 places"):
        ol.Classifier(Net(lambda o: getattr(o, pool)(1)))(torch.randn(4, 7, 6))


def test_the_largest_of_an_auxiliary_head_is_why_volo_has_no_linear_head():
    torch.manual_seed(0)
    model = timm.create_model("volo_d1_224", img_size=32, num_classes=5)
    for head in (model.head, model.aux_head):
        nn.init.normal_(head.weight)
    with pytest.raises(HeadError, match=r"1 times 'head' plus 0.5 times the largest of 'aux_head' over \d+ places"):
        ol.Classifier(model)(torch.randn(4, 3, 32, 32))
