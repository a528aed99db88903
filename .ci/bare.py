"""Without any extra installed, whatever needs one says which, and the rest works. Run by `make release`.

With names of extras that are installed, as `.ci/extras.py` gives, their uses must work instead.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import oodline as ol
from oodline.errors import MissingExtraError, OodlineError
from oodline.explain.regions import superpixels
from oodline.testing import toy_loader, toy_problem, toy_run

classifier, loader = toy_problem()
guard = ol.Guard(classifier, ol.default(classifier).fit(classifier, loader)).calibrate(toy_loader(seed=1))
table = ol.evaluate(guard.detector, classifier, loader, {"zeros": [torch.zeros(60, 4)]})
folder = Path(tempfile.mkdtemp())


def command(*words: str) -> Callable[[], Any]:
    """A command of oodline, run in this process."""

    def run() -> None:
        from oodline.cli import app

        app(list(words), exit_on_error=False, print_error=False, result_action="return_value")

    return run


NEEDS: dict[str, list[Callable[[], Any]]] = {
    "demo": [command("demo", "-o", str(folder / "demo"))],
    "timm": [lambda: ol.load_model("timm:resnet18,pretrained=false")],
    "transformers": [lambda: ol.load_model("hf:microsoft/resnet-18"), lambda: data("hf:cifar10,split=test")],
    "faiss": [lambda: ol.KNN(k=3, index="faiss-flat").fit(classifier, loader)],
    "onnx": [lambda: guard.export_onnx(folder / "guard.onnx", torch.zeros(2, 4))],
    "pandas": [table.to_pandas],
    "serve": [lambda: importlib.import_module("oodline.serve").create_app],
    "superpixels": [lambda: superpixels(torch.rand(3, 16, 16), count=4)],
    "report": [command("report", str(toy_run(folder / "run").folder), "-o", str(folder / "page.html"))],
    "ray": [lambda: ol.fit([ol.Energy(), ol.LINe()], classifier, loader, engine=ol.Ray(workers=2))],
    "torchmetrics": [lambda: ol.metrics.OODMetrics],
    "sklearn": [lambda: ol.OODDetector],
    "lightning": [lambda: importlib.import_module("oodline.integrations.lightning")],
    "mlflow": [lambda: importlib.import_module("oodline.integrations.mlflow")],
    "hub": [lambda: guard.push_to_hub("someone/guard")],
    "openvino": [lambda: guard.export_openvino(folder / "guard.xml", torch.zeros(2, 4))],
}


def data(name: str) -> Any:
    """A data set by name."""
    from oodline.data import open_images

    return open_images(name)


def main() -> None:
    """Try all, and fail where one says something else."""
    wrong = []
    for extra, uses in NEEDS.items():
        for use in uses:
            try:
                use()
            except MissingExtraError as error:
                if f"oodline[{extra}]" in str(error):
                    print(f"{extra}: {error}")
                    continue
                wrong.append(f"{extra}: {error}")
            except BaseException as error:
                wrong.append(f"{extra}: {type(error).__name__}: {error}")
            else:
                wrong.append(f"{extra}: nothing was missing")
    if wrong:
        raise SystemExit("\n".join(["These do not name their extra:", *wrong]))


def try_installed(extra: str) -> None:
    """Use what an installed extra is for; only what a network would have to answer may say that it did not."""
    for use in NEEDS[extra]:
        try:
            use()
        except MissingExtraError:
            raise
        except OodlineError as error:  # a name on a hub, without a network
            print(f"{extra}: {error}")


if __name__ == "__main__":
    if sys.argv[1:]:
        for name in sys.argv[1:]:
            try_installed(name)
    else:
        main()
