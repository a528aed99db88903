"""By what a cache knows a classifier and the code that runs it: their content, never which object or file they are."""

from __future__ import annotations

import inspect
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from oodline._util.digests import Digest, combine, file_digest
from oodline._version import __version__
from oodline.model.classifier import Classifier


def identity(classifier: Classifier) -> dict[str, str]:
    """All that the activations of a batch depend on besides the batch, by name.

    Weights and other tensors of the model, its modules with their settings and the source of their classes, which one
    is the head, the arithmetic that runs it, and the versions of oodline and torch. What a hook on the model or a
    patched method does is not seen.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> one, same, other = toy_problem()[0], toy_problem()[0], toy_problem(seed=1)[0]
    >>> identity(one) == identity(same), [k for k, v in identity(one).items() if identity(other)[k] != v]
    (True, ['weights'])
    """
    kind = classifier.device.type
    with classifier.computing():
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"
    exact = torch.get_float32_matmul_precision()
    return {
        "weights": weights_digest(classifier.model),
        "architecture": architecture_digest(classifier.model),
        "head": classifier.first_head_name,
        "arithmetic": f"{kind}, autocast {autocast}, float32 products {exact}, {classifier.compiled_by}",
        "oodline": __version__,
        "torch": torch.__version__,
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of every parameter and buffer."""
    whole = Digest()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        whole.add(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n", tensor)
    return whole.hex()


def architecture_digest(model: nn.Module) -> str:
    """SHA-256 of the tree of modules with their settings, and of the files that define their classes."""
    classes = {type(module) for module in model.modules()}
    return combine([repr(model), *sorted((cls.__qualname__, _source_digest(cls)) for cls in classes)])


@cache
def code_digest() -> str:
    """SHA-256 of all of oodline's own code: for results that a changed detector would give in another way."""
    root = Path(__file__).parents[1]
    return combine((str(p.relative_to(root)), file_digest(p)) for p in sorted(root.rglob("*.py")))


def _source_digest(cls: type) -> str:
    try:
        return file_digest(inspect.getfile(cls))
    except (OSError, TypeError):
        return "no file"  # typed into a session: its name and the tree of modules must do
