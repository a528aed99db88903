"""`--preprocessing` beside a guard file that holds another one."""

from __future__ import annotations

import warnings

import pytest

from oodline.cli.preprocessing import read_preprocessing
from oodline.errors import PreprocessingWarning
from oodline.preprocessing.preprocessing import Preprocessing

FITTED = Preprocessing(resize=8, crop=8, mean=(0.5,) * 3)


def test_another_preprocessing_than_the_guard_files_is_warned_of_by_field():
    with pytest.warns(
        PreprocessingWarning, match=r"mean \(0\.5, 0\.5, 0\.5\) there, \(0\.0, 0\.0, 0\.0\) here\. "
    ) as w:
        given = read_preprocessing('{"resize": 9, "crop": 8}', FITTED)
    assert given == Preprocessing(resize=9, crop=8)
    assert "resize 8 there, 9 here" in str(w[0].message) and "crop 8" not in str(w[0].message)


def test_the_same_preprocessing_in_other_words_is_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_preprocessing(FITTED.model_copy(update={"interpolation": "bilinear"}).model_dump_json(), FITTED)
        read_preprocessing('{"resize": 9}')
