"""The Python in README and CONTRIBUTING runs as it stands, and the commands there exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import oodline as ol
from oodline.cli import app
from oodline.cli.methods import methods
from oodline.testing import toy_loader, toy_problem

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier, loader = toy_problem()
    names = {
        "model": classifier.model,
        "train_loader": loader,
        "val_loader": toy_loader(seed=1),
        "test_loader": loader,
        "images": torch.zeros(2, 4),
        "features": classifier(loader[0][0]).features.numpy(),
        "test_features": classifier(toy_loader(seed=1)[0][0]).features,
        "labels": loader[0][1].numpy(),
        "W": classifier.head.weight.numpy(),
        "b": classifier.head.bias,
    }
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["verdict"].is_ood.shape == (2,)
    assert isinstance(names["guard"], ol.Guard)


def test_the_detector_of_contributing_keeps_the_contract():
    [block] = blocks("CONTRIBUTING.md", "python")
    names: dict[str, object] = {"__name__": "contributed"}
    exec(compile(block.replace("from __future__ import annotations\n", ""), "CONTRIBUTING.md", "exec"), names)
    detector = names["ClassMean"]()
    classifier, loader = toy_problem()
    ol.fit([detector, ol.LINe()], classifier, loader)
    features, labels = classifier(loader[0][0]).features, loader[0][1]
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    expected = -(features[:, None] - means).norm(dim=2).min(1).values
    torch.testing.assert_close(detector(classifier(loader[0][0])), expected)


def test_the_page_of_methods_is_what_the_command_prints(capsys):
    methods(markdown=True)
    assert (ROOT / "docs" / "methods.md").read_text() == capsys.readouterr().out


def commands(document: str) -> list[list[str]]:
    lines = [line for block in blocks(document, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("oodline ")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_parse(document):
    for arguments in commands(document):
        command, _, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert command.__name__ == arguments[0]
