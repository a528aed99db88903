"""The names that `import oodline` offers: there, documented, listed, and cheap."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import oodline

PUBLIC = [*oodline.__all__, *oodline._OPTIONAL]
NAMES = [name for name in PUBLIC if name not in ("__version__", "Fitted", "default")]
"""Without the version, an annotation, and the short name of `default_detector`."""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_to_the_thing_of_that_name(name):
    thing = getattr(oodline, name)
    assert thing.__name__ == name
    assert thing.__module__ == {**oodline._HOMES, **oodline._DETECTORS, **oodline._OPTIONAL}[name]


def test_type_checkers_read_the_same_names():
    homes = {**oodline._HOMES, **oodline._DETECTORS, **oodline._OPTIONAL}
    block = re.findall(r"^    from (\S+) import (\S+) as (\S+)$", inspect.getsource(oodline), re.MULTILINE)
    missing = {
        f"    from {home} import {name} as {name}" for name, home in homes.items() if (home, name, name) not in block
    }
    assert not missing
    assert len(block) == len(homes)
    assert sorted(PUBLIC) == sorted(["__version__", *homes])


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented(name):
    thing = getattr(oodline, name)
    text = inspect.getdoc(thing)
    summary = text.partition("\n")[0]
    assert thing.__doc__ and len(summary) > 10
    example = re.search(r"^Examples\n-+\n(.*)", text, re.MULTILINE | re.DOTALL)
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    assert example and ">>>" in example[1]


@pytest.mark.parametrize("name", [n for n in NAMES if inspect.isfunction(getattr(oodline, n))])
def test_every_parameter_of_a_function_is_documented(name):
    function = getattr(oodline, name)
    names = set(inspect.signature(function).parameters)
    text = inspect.getdoc(function)
    # the one argument of a function may be described by its summary
    assert len(names) == 1 or all(re.search(rf"^{name} : |, {name} : |^{name}, ", text, re.MULTILINE) for name in names)


def test_dir_lists_exactly_the_public_names():
    assert dir(oodline) == sorted(oodline.__all__)
    assert set(oodline._HOMES) | set(oodline._DETECTORS) | {"__version__"} == set(oodline.__all__)


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab.]\w+)?", oodline.__version__)


def test_modules_are_there_without_an_import():
    code = (
        "import oodline; m = [oodline.explain, oodline.metrics, oodline.training]; "
        "print(*(each.__name__ for each in m), [n for each in m for n in each.__all__ if not getattr(each, n).__doc__])"
    )
    assert run(code) == "oodline.explain oodline.metrics oodline.training []"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'oodline' has no attribute 'Lime'"):
        _ = oodline.Lime
    with pytest.raises(ImportError, match="cannot import name 'Lime'"):
        exec("from oodline import Lime")
    assert not hasattr(oodline, "__wrapped__")


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'numpy', 'PIL', 'pydantic', 'rich', 'timm', 'transformers', 'jaxtyping'}"
    code = f"import sys, oodline; dir(oodline); oodline.__version__; print(*sorted({heavy} & set(sys.modules)))"
    assert run(code) == ""


def test_the_catalogue_is_read_without_torch():
    code = "import sys; from oodline.detectors.catalog import CATALOG; print(len(CATALOG) > 5, 'torch' in sys.modules)"
    assert run(code) == "True False"


def test_a_guard_that_judges_images_needs_torch_but_not_torchvision():
    code = (
        "import sys; from oodline.testing import toy_loader, toy_problem; import oodline as ol; "
        "c, loader = toy_problem(); guard = ol.Guard(c, ol.Energy()).calibrate(loader); "
        "from PIL import Image; ol.Preprocessing(resize=6, crop=8)(Image.new('RGB', (9, 7))); "
        "print(guard(loader[0][0]).is_ood.shape[0], sorted({'torchvision', 'torch._dynamo'} & set(sys.modules)))"
    )
    assert run(code) == "60 []"
