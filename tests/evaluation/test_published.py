"""Published numbers: all sourced, and set beside ours only where they are the same quantity."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from oodline.detectors.catalog import create_detector
from oodline.evaluation.evaluate import tabulate
from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.published import Published, beside, published_tables, to_markdown
from oodline.evaluation.table import Table

SETS = ("inaturalist", "sun", "places", "textures")


@pytest.fixture
def table() -> Table:
    random = torch.Generator().manual_seed(0)
    return tabulate(
        {"line": torch.randn(50, generator=random) + 2},
        {name: {"line": torch.randn(40, generator=random)} for name in SETS},
    )


def test_every_published_number_has_a_method_and_a_source():
    tables = published_tables()
    assert {t.id for t in tables} == {"cifar10", "cifar100", "imagenet"}
    for known in tables:
        assert known.arxiv in known.source
        assert known.means or known.cells
        for method in (*known.means, *known.cells):
            create_detector(method)  # raises where there is none
        assert set(known.sizes) <= set(known.sets)
        assert all(set(cells) <= set(known.sets) for cells in known.cells.values())


def test_a_mean_of_listed_cells_is_the_listed_mean():
    [known] = [t for t in published_tables() if t.arxiv == "2303.13995" and t.id == "imagenet"]
    cells = [known.cells["line"][name]["fpr95_id_positive"] for name in known.sets]
    assert sum(cells) / 4 == pytest.approx(known.means["line"]["fpr95_id_positive"], abs=0.006)
    [known] = [t for t in published_tables() if t.arxiv == "2111.09805"]
    for metric in ("fpr95_id_positive", "auroc"):
        cells = [known.cells["react,scorer=dice"][name][metric] for name in known.sets]
        assert sum(cells) / 4 == pytest.approx(known.means["react,scorer=dice"][metric], abs=0.006)


def test_same_network_and_sets_are_set_side_by_side(table):
    found = {(c.column, c.metric): c for c in beside(table, id="imagenet", network="resnet50", fit=1000)}
    mean = found["mean", "fpr95_id_positive"]
    assert mean.published == 20.70
    assert mean.ours == 100 * table.value("line", "fpr95_id_positive", None)
    assert mean.difference == mean.ours - 20.70
    assert "40 sun images in place of 10,000" in mean.remarks
    assert "1,000 images to fit on in place of 1,281,167" in mean.remarks
    cell = found["textures", "auroc"]
    assert (cell.published, cell.ours) == (94.44, 100 * table.value("line", "auroc", "textures"))
    assert "40 textures images in place of 5,640" in cell.remarks
    assert not any("sun" in remark for remark in cell.remarks)


def test_another_network_or_other_sets_are_not(table):
    for c in beside(table, id="imagenet", network="mobilenetv2"):
        assert c.ours is None
        assert c.difference is None
        assert c.remarks[0] == "their network is resnet50"
    ours = {"line": dict.fromkeys(("svhn", "textures", "mnist"), table.cells["line"]["sun"])}
    [c] = beside(Table(ours), id="cifar10", network="densenet100")
    assert (c.column, c.published, c.ours) == ("mean", 14.71, None)
    assert c.remarks == ("their mean is over lsun_crop, lsun_resize, isun, places365 too", "ours is over mnist too")
    cells = {"cadref": {"svhn": compute_metrics([1.0], [0.0])}}
    assert {c.remarks for c in beside(Table(cells), id="cifar10", network="densenet100")} == {
        ("the OOD sets of their mean are not known",)
    }


def test_a_detector_under_another_name_is_found_by_its_method(table):
    renamed = Table({"ours": table.cells["line"]})
    assert beside(renamed, id="imagenet", network="resnet50") == []
    found = beside(renamed, id="imagenet", network="resnet50", methods={"ours": "line"})
    assert {c.detector for c in found} == {"ours"}
    assert len(found) == 8  # two means, two whole cells, two with FPR alone


def test_markdown_shows_source_and_certainty(table):
    lines = to_markdown(beside(table, id="imagenet", network="mobilenetv2")).splitlines()
    assert lines[2].startswith("| line | fpr95_id_positive | mean | - | 20.70 | their network is resnet50 |")
    assert lines[2].endswith("2303.13995: ImageNet results, as listed by Papers with Code (listed) |")


def test_numbers_out_of_range_and_unknown_fields_are_refused():
    plain = published_tables()[0].model_dump()
    with pytest.raises(ValidationError):
        Published.model_validate(plain | {"means": {"line": {"auroc": 123.0}}})
    with pytest.raises(ValidationError):
        Published.model_validate(plain | {"means": {"line": {"aurocs": 12.0}}})
    with pytest.raises(ValidationError):
        Published.model_validate(plain | {"note": "from memory"})
