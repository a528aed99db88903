"""Small classifiers, data and runs: for examples and for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.model.head import HeadInfo, LinearHead

if TYPE_CHECKING:
    from oodline.data import ImageLoader
    from oodline.detectors.base import Detector
    from oodline.evaluation.protocol import BenchmarkProtocol
    from oodline.evaluation.run import Run
    from oodline.guard.guard import Guard


def activations_of(features: Float[Tensor, "n d"], head: LinearHead | None = None) -> Activations:
    """Activations with these features; without a head, the logits are the features themselves.

    Examples
    --------
    >>> activations_of(torch.tensor([[1.0, 2.0]])).logits
    tensor([[1., 2.]])
    """
    if head is None:
        width = features.shape[1]
        head = LinearHead(torch.eye(width, dtype=features.dtype), features.new_zeros(width))
    return Activations(features=features, logits=head(features), head=head, index=torch.arange(len(features)))


def toy_problem(seed: int = 0) -> tuple[Classifier, list[tuple[Tensor, Tensor]]]:
    """A small random classifier of 3 classes and one batch of 60 labelled ID samples that it classifies well.

    Examples
    --------
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> bool((classifier(images).logits.argmax(1) == labels).float().mean() > 0.9)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = _toy_batch(generator)
    body, head = nn.Linear(4, 16), nn.Linear(16, 3)
    with torch.no_grad():
        body.weight.copy_(torch.randn(16, 4, generator=generator))
        body.bias.zero_()
        features = torch.relu(body(inputs))
        means = torch.stack([features[labels == c].mean(0) for c in range(3)])
        # the best linear classifier for classes of equal spread points from the overall mean to each class mean
        head.weight.copy_(means - means.mean(0))
        head.bias.copy_(-0.5 * (means.square().sum(1) - means.mean(0).square().sum()))
    return Classifier(nn.Sequential(body, nn.ReLU(), head)), [(inputs, labels)]


def toy_loader(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Another batch of 60 samples like those of `toy_problem`, whose seed it must not share: held-out ID data.

    Examples
    --------
    >>> torch.equal(toy_loader(seed=1)[0][0], toy_problem()[1][0][0])
    False
    """
    return [_toy_batch(torch.Generator().manual_seed(seed))]


def _toy_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(60) % 3
    return torch.randn(60, 4, generator=generator) + 4 * torch.eye(3, 4)[labels], labels


def toy_images(folder: str | Path, count: int = 12, seed: int = 0) -> tuple[Classifier, ImageLoader]:
    """A small random classifier of 3 classes of images, and a loader of labelled noise that it writes to `folder`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     classifier, loader = toy_images(folder)
    ...     [classifier(batch.inputs).features.shape for batch in loader]
    [torch.Size([4, 16]), torch.Size([4, 16]), torch.Size([4, 16])]
    """
    from PIL import Image

    from oodline.data import image_loader, open_images
    from oodline.preprocessing.preprocessing import Preprocessing

    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
        path = Path(folder) / "images" / str(i % 3) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    loader = image_loader(open_images(Path(folder) / "images"), Preprocessing(), batch_size=4)
    return Classifier(toy_network(seed)), loader


def toy_image_guard(detector: Detector | None = None, size: int = 8) -> Guard:
    """A calibrated guard of a small network that tells red, green and blue images apart; LINe without `detector`.

    Examples
    --------
    >>> from PIL import Image
    >>> guard = toy_image_guard()
    >>> image = guard.preprocessing(Image.new("RGB", (20, 20), "blue"))
    >>> guard(image.unsqueeze(0)).rows()[0]["class_name"]
    'blue'
    """
    from oodline.detectors.fit import fit
    from oodline.detectors.line import LINe
    from oodline.guard.guard import Guard
    from oodline.guard.neurons import Neurons
    from oodline.preprocessing.preprocessing import Preprocessing

    generator, labels = torch.Generator().manual_seed(0), torch.arange(120) % 3
    colours = torch.eye(3).repeat(4, 1)
    body, head = nn.Conv2d(3, 12, 1, bias=False), nn.Linear(12, 3, bias=False)
    with torch.no_grad():
        body.weight.copy_(colours[:, :, None, None] + 0.1 * torch.randn(12, 3, 1, 1, generator=generator))
        head.weight.copy_(4 * colours.T + 0.1 * torch.randn(3, 12, generator=generator))
    model = nn.Sequential(body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    plain = torch.eye(3)[labels][:, :, None, None] + 0.2 * torch.randn(120, 3, size, size, generator=generator)
    classifier, detector = Classifier(model), detector or LINe(p_a=0.5, p_w=0.5, clip=5.0)
    neurons = Neurons(samples=3)
    fit([detector, neurons], classifier, [(plain[:60], labels[:60])])
    preprocessing = Preprocessing(resize=size, crop=size)
    names = ("red", "green", "blue")
    guard = Guard(classifier, detector, class_names=names, preprocessing=preprocessing, neurons=neurons)
    return guard.calibrate([plain[60:]], false_alarm=0.05)


def toy_protocol(folder: str | Path) -> BenchmarkProtocol:
    """A protocol of a small random network on images that it writes to `folder`: an ID set, a test set, an OOD set.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     [name for _, name, _ in toy_protocol(folder).sets()]
    ['train', 'test', 'noise']
    """
    from oodline.evaluation.protocol import parse_protocol

    for seed, name in enumerate(("train", "test", "noise")):
        toy_images(Path(folder) / name, seed=seed)
    return parse_protocol(
        {
            "classifier": {"model": f"python:{__file__}:toy_network", "preprocessing": {}},
            "fit": {"data": f"{folder}/train/images", "name": "train"},
            "test": {"data": f"{folder}/test/images", "name": "test"},
            "ood": [{"data": f"{folder}/noise/images", "name": "noise", "group": "far"}],
            "detectors": ["energy", "knn,k=5"],
            "batch_size": 4,
        }
    )


def toy_network(seed: int = 0) -> nn.Module:
    """A small random network for images of 3 classes.

    Examples
    --------
    >>> toy_network()(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 3])
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def toy_run(folder: str | Path) -> Run:
    """Write a small finished run: the toy problem, two detectors, a near and a far OOD set.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     toy_run(f"{folder}/run").groups
    {'near': ['halved'], 'far': ['origin']}
    """
    from oodline._version import __version__
    from oodline.detectors.catalog import create_detector
    from oodline.evaluation.record import ClassifierRecord, DetectorEntry, RunRecord, SetRecord
    from oodline.evaluation.run import write_run
    from oodline.guard.artifact import Artifact, describe
    from oodline.scoring.score import score_all

    classifier, loader = toy_problem()
    detectors = {name: create_detector(name) for name in ("energy", "msp")}
    inputs, head = loader[0][0], HeadInfo.of(classifier.head)
    data: dict[str, list[Any]] = {"test": loader, "halved": [inputs / 2], "origin": [inputs / 20]}
    groups = {"halved": "near", "origin": "far"}
    record = RunRecord(
        name="toy",
        created=datetime.now(UTC),
        versions={"oodline": __version__, "torch": torch.__version__},
        classifier=ClassifierRecord(
            reference="toy",
            weights=None,
            head=head.name,
            num_classes=head.num_classes,
            num_features=head.num_features,
            fingerprint=head.fingerprint,
        ),
        sets=[
            SetRecord(
                name=name,
                role="ood" if name in groups else "id",
                group=groups.get(name),
                spec=f"toy {name}",
                samples=60,
                seconds=0.1,
                cached=False,
            )
            for name in data
        ],
        detectors={
            name: DetectorEntry(**describe(d).model_dump(exclude_defaults=True), milliseconds=0.01, state_bytes=0)
            for name, d in detectors.items()
        },
        tpr=0.95,
        batch_size=60,
        seconds=0.3,
    )
    scores = {name: score_all(detectors, classifier, batches) for name, batches in data.items()}
    return write_run(folder, record, scores, Artifact(detectors, head))
