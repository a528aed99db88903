"""What there is to know of a CUDA machine, in under five minutes.

    python -m benchmarks.cost.accelerator

1. Scores on the device equal those on the CPU.
2. Fitting LINe and scoring by LINe, energy and the default over the bare pass: float32, bfloat16, compiled.
3. LINe's Triton head against the dense form, and against the time that memory takes to give what it must read.
4. ONNX Runtime's CUDA provider: its scores against PyTorch's.

Without a CUDA device it says so and ends well. What cannot run is skipped with its reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from benchmarks._common import load_example
from cyclopts import App
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn

from oodline import Classifier, Energy, LINe, default, fit, score
from oodline.detectors.parts import masked_linear as head
from oodline.testing import toy_image_guard

Row = tuple[str, str]

app = App()


@app.default
def main(*, rounds: int = 7) -> None:
    """Measure and print.

    Parameters
    ----------
    rounds
        How often each is timed.
    """
    if not torch.cuda.is_available():
        print("Skipped: there is no CUDA device (torch.cuda.is_available() is False).")
        return
    torch.manual_seed(0)
    table = Table("what", "found", title=torch.cuda.get_device_name(), box=SIMPLE_HEAD)
    for part in (equality, passes, triton_head, onnx_provider):
        try:
            for row in part(rounds):
                table.add_row(*row)
        except Exception as error:  # one part that fails leaves the others
            table.add_row(part.__name__, f"skipped: {type(error).__name__}: {str(error)[:100]}")
    Console(width=120).print(table)


def network() -> nn.Module:
    """The DenseNet-100 of the LINe paper, with random weights."""
    model: nn.Module = load_example("cifar_models").densenet100(num_classes=10)
    return model.eval()


def batches(device: str, count: int = 4, size: int = 256) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random images, the same on any device."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(size, 3, 32, 32, generator=generator) for _ in range(count)]
    return [(batch.to(device), torch.arange(size) % 10) for batch in images]


def equality(rounds: int) -> Iterator[Row]:
    """Scores of the same network and detector on both devices, in plain float32."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    model = network()
    line = LINe(p_a=0.9, p_w=0.9).fit(Classifier(model), batches("cpu", 1))
    for name, detector in (("LINe", line), ("energy", Energy())):
        cpu = score(detector, Classifier(model), batches("cpu", 1)).cpu()
        gpu = score(detector.cuda(), Classifier(model.cuda()), batches("cuda", 1)).cpu()
        model.cpu(), detector.cpu()
        yield f"{name}: largest |GPU - CPU| / spread of scores", f"{float((gpu - cpu).abs().max() / cpu.std()):.1e}"
    torch.backends.cudnn.allow_tf32 = tf32


def passes(rounds: int) -> Iterator[Row]:
    """Ratios to the bare pass of the same form of the network."""
    for form in ("float32", "bfloat16", "compiled"):
        model = network().cuda()
        loader = batches("cuda")
        if form == "bfloat16":
            model = model.bfloat16()
            loader = [(images.bfloat16(), labels) for images, labels in loader]
        classifier = Classifier(model)
        if form == "compiled":
            model.compile()
        line = LINe(p_a=0.9, p_w=0.9).fit(classifier, loader)
        fused = default(classifier).fit(classifier, loader)
        jobs: dict[str, Callable[[], Any]] = {
            "fit LINe": lambda c=classifier, d=loader: fit([LINe(p_a=0.9, p_w=0.9)], c, d),  # type: ignore[misc]
            "score LINe": lambda s=line, c=classifier, d=loader: score(s, c, d),  # type: ignore[misc]
            "score energy": lambda c=classifier, d=loader: score(Energy(), c, d),  # type: ignore[misc]
            "score default": lambda s=fused, c=classifier, d=loader: score(s, c, d),  # type: ignore[misc]
        }
        bare, found = [], {name: [] for name in jobs}  # type: dict[str, list[float]]
        for _ in range(rounds):
            bare.append(clock(lambda m=model, d=loader: [m(images) for images, _ in d]))  # type: ignore[misc]
            for name, job in jobs.items():
                found[name].append(clock(job))
        for name, seconds in found.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, bare, strict=True))
            yield f"{form}: {name} / bare pass", f"{ratio:.2f}"


def triton_head(rounds: int, classes: int = 1000, width: int = 2048) -> Iterator[Row]:
    """The head at the size of an ImageNet ResNet-50."""
    weight, bias = torch.randn(classes, width, device="cuda"), torch.zeros(classes, device="cuda")
    threshold = torch.full((classes, width), -1.28, device="cuda")
    copied = torch.empty(2**28, device="cuda")
    bandwidth = 2 * copied.nbytes / least(lambda: copied.clone(), rounds)
    yield "memory bandwidth, by a copy", f"{bandwidth / 1e9:.0f} GB/s"
    for batch in (1, 32, 256):
        h = torch.rand(batch, width, device="cuda")
        c = torch.randperm(classes, device="cuda")[:batch]
        arguments = (h, weight, bias, threshold, c)
        ours = least(lambda: head.masked_linear(*arguments), rounds)  # noqa: B023  # called at once
        dense = least(lambda: head._as_graph(*arguments), rounds)  # noqa: B023
        plain = least(lambda: nn.functional.linear(h, weight, bias), rounds)  # noqa: B023
        # weights once, and each sample's thresholds, features and products
        limit = 4 * (classes * width + batch * (2 * width + classes)) / bandwidth
        name = "Triton" if head._fused() is not None else "tiles, without Triton"
        yield (
            f"LINe's head ({name}), batch {batch}",
            f"{1e6 * ours:.0f} us; dense form {dense / ours:.1f}, plain head {plain / ours:.2f}, "
            f"limit of memory {limit / ours:.2f} of it",
        )


def onnx_provider(rounds: int) -> Iterator[Row]:
    """A small guard as ONNX, run by the CUDA provider."""
    import onnxruntime

    from oodline.guard.export import export_onnx

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        yield "ONNX Runtime, CUDA provider", "skipped: this onnxruntime has none (pip install onnxruntime-gpu)"
        return
    guard = toy_image_guard()
    images = torch.rand(64, 3, 8, 8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "guard.onnx"
        export_onnx(guard, path, images[:2])
        session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    names = [output.name for output in session.get_outputs()]
    scores = torch.from_numpy(found[names.index("score")])
    yield "ONNX Runtime, CUDA provider: largest difference", f"{float((scores - guard(images).score).abs().max()):.1e}"


def clock(job: Callable[[], Any]) -> float:
    """Seconds that pass until the device has done a job."""
    with torch.no_grad():
        torch.cuda.synchronize()
        started = perf_counter()
        job()
        torch.cuda.synchronize()
        return perf_counter() - started


def least(job: Callable[[], Any], rounds: int, calls: int = 20) -> float:
    """Seconds of one call, the least of several rounds."""
    job()
    return min(clock(lambda: [job() for _ in range(calls)]) / calls for _ in range(rounds))


if __name__ == "__main__":
    app()
