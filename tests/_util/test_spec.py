"""The grammar `SCHEME:NAME,key=value,key=value`."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodline._util.spec import Reference, parse_reference
from oodline.detectors.catalog import create_detector
from oodline.errors import SettingError, UnknownNameError

SCHEMES = {"timm", "hf", "torchvision"}

NAMES: dict[str, tuple[str | None, str]] = {
    "timm:mobilenetv2_100": ("timm", "mobilenetv2_100"),
    "hf:microsoft/resnet-50": ("hf", "microsoft/resnet-50"),
    "timm:hf-hub:timm/resnet18.a1_in1k": ("timm", "hf-hub:timm/resnet18.a1_in1k"),
    "timm:": ("timm", ""),
    "line": (None, "line"),
    "python:file.py:factory": (None, "python:file.py:factory"),
    "C:/images": (None, "C:/images"),
    "TIMM:resnet18": (None, "TIMM:resnet18"),
    "images/timm:x": (None, "images/timm:x"),
    "images/,new": (None, "images/,new"),
    "a,b,c": (None, "a,b,c"),
    "images/a=b": (None, "images/a=b"),
    "images,2=b": (None, "images,2=b"),
    "": (None, ""),
}

VALUES: dict[str, object] = {
    "1": 1,
    "-1": -1,
    "0.9": 0.9,
    ".9": 0.9,
    "-.5": -0.5,
    "+.5": 0.5,
    "1e-3": 1e-3,
    "true": True,
    "false": False,
    "null": None,
    '"1"': "1",
    "[32,48]": [32, 48],
    '{"a":1}': {"a": 1},
    "True": "True",
    "same": "same",
    "": "",
    "1.2.3": "1.2.3",
    "a=b": "a=b",
    "x,y": "x,y",
    "hf:name": "hf:name",
    "data/some dir": "data/some dir",
    "[32,": "[32,",
}


@pytest.mark.parametrize("text", NAMES)
def test_scheme_and_name(text):
    assert parse_reference(text, SCHEMES) == Reference(*NAMES[text])


@pytest.mark.parametrize("text", VALUES)
@pytest.mark.parametrize("around", ["{}", "{},other=1"])
def test_values_are_json_where_they_can_be_and_text_elsewhere(text, around):
    options = parse_reference(f"line,key={around.format(text)}").options
    assert options["key"] == VALUES[text]
    assert type(options["key"]) is type(VALUES[text])
    assert list(options) == ["key", "other"][: len(options)]


def test_numbers_that_are_not_finite_are_read_as_json_of_python_reads_them():
    options = parse_reference("line,clip=Infinity,low=-Infinity,odd=NaN").options
    assert options["clip"] == -options["low"] == math.inf
    assert math.isnan(options["odd"])


def test_without_schemes_a_colon_belongs_to_the_name():
    assert parse_reference("timm:resnet18,a=1") == Reference(None, "timm:resnet18", {"a": 1})


keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(exclude_characters=","))
)


@given(scheme=st.sampled_from([*sorted(SCHEMES), None]), name=keys, options=st.dictionaries(keys, values, max_size=4))
@settings(deadline=None, max_examples=100)
def test_what_is_written_is_read(scheme, name, options):
    written = "".join(f",{key}={json.dumps(value)}" for key, value in options.items())
    text = f"{scheme}:{name}{written}" if scheme else f"{name}{written}"
    reference = Reference(scheme, name, options)
    assert parse_reference(text, SCHEMES) == reference
    assert parse_reference(str(reference), SCHEMES) == reference


@pytest.mark.parametrize("value", VALUES.values())
def test_a_reference_is_printed_as_people_write_it_and_reads_the_same(value):
    reference = Reference("hf", "name", {"key": value})
    assert parse_reference(str(reference), SCHEMES) == reference
    assert (
        str(Reference("torchvision", "SVHN", {"root": "a b", "train": False}))
        == "torchvision:SVHN,root=a b,train=false"
    )


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_text_is_read_and_nothing_of_it_is_lost(text):
    found = parse_reference(text, SCHEMES)
    start = f"{found.scheme}:{found.name}" if found.scheme else found.name
    assert text.startswith(start)
    assert bool(found.options) == (len(start) < len(text))


def test_a_mistaken_reference_ends_in_a_sentence():
    with pytest.raises(UnknownNameError, match=r"unknown detector 'enregy'\. Did you mean 'energy'\? Known: ada"):
        create_detector("enregy")
    with pytest.raises(UnknownNameError, match=r"unknown detector 'line,p_a'"):
        create_detector("line,p_a")
    with pytest.raises(SettingError, match=r"'line' has no setting 'pa'\. It has: .*p_a"):
        create_detector("line,pa=0.9")
    with pytest.raises(SettingError, match="`p_a` must be a number from 0 to below 1; got 'a lot'"):
        create_detector("line,p_a=a lot")


def test_a_key_given_twice_is_refused():
    with pytest.raises(SettingError, match="p_a"):
        create_detector("line,p_a=0.1,p_a=0.9")
