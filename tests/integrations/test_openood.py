"""OpenOOD's image lists are data sets, and its result tables are written and read."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from oodline.data import open_images
from oodline.errors import DataError, SettingError, UnknownNameError
from oodline.evaluation.evaluate import tabulate
from oodline.evaluation.table import Table
from oodline.integrations.openood import COLUMNS, read_openood_csv, to_openood_csv


def test_an_image_list_is_a_data_set_by_its_ending(tmp_path):
    root = tmp_path / "images"
    (root / "tin test").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        Image.new("RGB", (2, 2), colour).save(root / "tin test" / name)
    (tmp_path / "test_tin.txt").write_text(
        "tin test/a.png 7\ntin test/b.png -1\ntin test/c.png {'label': 3, 'size': 2}\n"
    )
    source = open_images(f"{tmp_path}/test_tin.txt,root={root}")
    assert [source.label(i) for i in range(len(source))] == [7, None, 3]
    assert source.read(2).getpixel((0, 0)) == (0, 128, 0)
    assert source.name(0) == "tin test/a.png"
    same = open_images(f"list:{tmp_path}/test_tin.txt,root={root}")
    assert same.fingerprint() == source.fingerprint()
    with pytest.raises(DataError, match=r"which is not in .* Pass root=FOLDER"):
        open_images(tmp_path / "test_tin.txt")
    with pytest.raises(DataError, match=r"takes root=\.\.\. and masks=\.\.\.; got order=natural"):
        open_images(f"{tmp_path}/test_tin.txt,order=natural")
    for line in ("tin test/a.png {1}", "tin test/a.png {'label': open('x')}", "tin test/a.png x"):
        (tmp_path / "bad.txt").write_text(line)
        with pytest.raises(DataError, match=r"line 1 of .*bad.txt must be PATH LABEL"):
            open_images(f"{tmp_path}/bad.txt,root={root}")


@pytest.fixture
def table():
    random = torch.Generator().manual_seed(0)
    sets = {name: torch.randn(50, generator=random) - shift for name, shift in (("tin", 1), ("cifar", 2), ("svhn", 3))}
    found = tabulate(
        {"knn": torch.randn(80, generator=random)},
        {name: {"knn": scores} for name, scores in sets.items()},
        groups={"near": ["tin", "cifar"], "far": ["svhn"]},
    )
    return Table(found.cells, groups=found.groups, accuracy=0.9506)


def test_a_table_is_written_and_read_back(tmp_path, table):
    path = to_openood_csv(table, tmp_path / "knn.csv")
    assert path.read_text().splitlines()[0] == "dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC"
    found = read_openood_csv(path)
    assert list(found) == ["tin", "cifar", "nearood", "svhn", "farood"]
    for metric in COLUMNS.values():
        assert found["tin"][metric] == pytest.approx(table.value("knn", metric, "tin"), abs=5e-5)
        assert found["nearood"][metric] == pytest.approx(table.value("knn", metric, "near mean"), abs=5e-5)
        assert found["farood"] == found["svhn"]
    assert found["svhn"]["accuracy"] == 0.9506


def test_a_file_of_means_and_deviations(tmp_path):
    (tmp_path / "msp.csv").write_text(
        ",FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\nnearood,48.17 ± 3.92,88.03 ± 0.25,1,2,95.06\n"
    )
    expected = {"fpr95_ood_positive": 0.4817, "auroc": 0.8803, "aupr_in": 0.01, "aupr_out": 0.02, "accuracy": 0.9506}
    assert read_openood_csv(tmp_path / "msp.csv") == {"nearood": expected}


def test_what_is_no_table_of_openood(tmp_path, table):
    path = tmp_path / "a.csv"
    for text, sentence in (
        ("", "must have the columns dataset, FPR@95, AUROC, AUPR_IN, AUPR_OUT, ACC; got none"),
        ("dataset,AUROC\na,1\n", "got dataset, AUROC"),
        ("dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT\na,1,2,3,x\n", "line 2 of .* must hold a name and percentages"),
        ("dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT\na,1,2,3,101\n", "line 2"),
        ("dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT\na,1,2,3\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=sentence):
            read_openood_csv(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_openood_csv(tmp_path / "none.csv")
    with pytest.raises(UnknownNameError, match="unknown detector of the table 'msp'"):
        to_openood_csv(table, path, "msp")
    several = Table({**table.cells, "msp": table.cells["knn"]})
    with pytest.raises(SettingError, match="`detector` must be one of knn, msp; got None"):
        to_openood_csv(several, path)
