"""Proposals in Parquet, read like a COCO results file; the masks are pycocotools'."""

import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pycocotools.coco import COCO
from typer.testing import CliRunner

from sharpmask.cli.main import app
from sharpmask.coco.parquet_results import ParquetResults
from sharpmask.evaluation.run import evaluate
from sharpmask.integrations.arrow import schema
from sharpmask.selection import Segments
from sharpmask.writers.parquet import ParquetWriter
from sharpmask.writers.writer import Destination, Segmented
from synthetic_coco import compressed_rle

FULL = compressed_rle(np.ones((2, 3), bool))


def perfect(annotations):
    """The images of a data set, and its objects as proposals; image 25 has none."""
    with redirect_stdout(None):
        truth = COCO(str(annotations))
    records = []
    for place, annotation in enumerate(truth.loadAnns(truth.getAnnIds())):
        mask = truth.annToMask(annotation).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        records.append(
            {
                "image_id": annotation["image_id"], "category_id": 1,
                "segmentation": compressed_rle(mask), "bbox": [*map(float, box)],
                "score": float(np.float32(0.9 - place / 20)),
                "file_name": truth.imgs[annotation["image_id"]]["file_name"],
            }
        )  # fmt: skip
    return truth.dataset["images"], records


def rows_of(images, records):
    """The same as rows of a large run; the photo without proposals is one that failed."""
    rows = {
        image["id"]: {
            "id": image["id"], "path": image["file_name"], "width": image["width"],
            "height": image["height"], "proposals": [], "seconds": 1.0, "model": "m",
        }
        for image in images
    }  # fmt: skip
    rows[25] |= {"width": None, "height": None, "error": "is damaged"}
    for record in records:
        proposal = {"score": record["score"], "bbox": record["bbox"], "area": 1200}
        proposal["rle"] = record["segmentation"]["counts"]
        rows[record["image_id"]]["proposals"].append(proposal)
    return list(rows.values())


def write_rows(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema()), path, **options)
    return path


pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools


@pytest.fixture
def annotations(coco_folder, tmp_path):
    """Four images, all of them wholly labelled."""
    content = json.loads(coco_folder.val.read_text())
    for image in content["images"]:
        image.pop("complete", None)
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path / "val.json"


@pytest.fixture
def proposals(annotations, tmp_path):
    """Records, and a folder of parts with the same."""
    images, records = perfect(annotations)
    rows = rows_of(images, records)
    write_rows(tmp_path / "parts" / "part-0.parquet", rows[:3], row_group_size=2)
    write_rows(tmp_path / "parts" / "part-1.parquet", rows[3:])
    (tmp_path / "parts" / "_plan").mkdir()
    (tmp_path / "parts" / "_plan" / "photos.parquet").write_bytes(b"is left alone")
    return records, tmp_path / "parts"


def test_photos_are_read_in_any_order_over_files_and_groups(proposals):
    records, folder = proposals
    results = ParquetResults(folder)
    assert results.image_ids == [5, 15, 25, 35]
    for image_id in (35, 5, 25, 15, 5, 99):
        expected = [record for record in records if record["image_id"] == image_id]
        assert results.proposals(image_id) == expected
    assert results.proposals("5") == []
    assert list(results) == records
    assert len(results) == 4
    assert results.has_masks


def test_evaluation_of_parts_is_that_of_the_same_results_in_json(proposals, annotations, tmp_path):
    records, folder = proposals
    (tmp_path / "results.json").write_text(json.dumps(records))
    of_json = evaluate(annotations, proposals=tmp_path / "results.json")
    of_parts = evaluate(annotations, proposals=str(folder))
    np.testing.assert_array_equal(of_parts.masks.recall, of_json.masks.recall)
    np.testing.assert_array_equal(of_parts.boxes.recall, of_json.boxes.recall)
    assert of_parts.proposals == of_json.proposals == len(records)
    assert of_json.masks.recall.max() == 1


def test_convert_writes_coco_results_of_parts_and_of_a_file(proposals, tmp_path):
    records, folder = proposals
    for source, expected in (
        (folder, records),
        (folder / "part-1.parquet", [r for r in records if r["image_id"] == 35]),
    ):
        target = tmp_path / "found.json"
        result = CliRunner().invoke(app, ["convert", str(source), str(target)])
        assert result.exit_code == 0, result.output
        assert json.loads(target.read_text()) == expected
    result = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "found.txt")])
    assert result.exit_code == 2
    assert "found.txt: the target's name must end in .json" in result.stderr


def test_convert_does_not_lose_the_names_of_detections(tmp_path):
    photo = Segmented(1, Path("a.jpg"), Segments((2, 3), np.ones(1, np.float32), [FULL], [17]))
    destination = Destination(tmp_path, [photo.path], {17: "cat"})
    ParquetWriter(destination).finish([photo])
    source, target = tmp_path / "proposals.parquet", tmp_path / "found.json"
    result = CliRunner().invoke(app, ["convert", str(source), str(target)])
    assert result.exit_code == 2
    assert "holds named objects, and COCO results have no names" in result.stderr
    assert not target.exists()
    assert ParquetResults(source).proposals(1)[0]["segmentation"] == FULL


@pytest.mark.slow  # draws plots
def test_evaluate_command_takes_a_folder_of_parts(proposals, annotations, tmp_path):
    _, folder = proposals
    result = CliRunner().invoke(
        app,
        [
            *("evaluate", "--annotations", str(annotations), "--proposals", str(folder)),
            *("--output", str(tmp_path / "report")),
        ],
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert report["settings"]["proposals"] == "parts"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"id": 1, "proposals": []}, {"id": 1, "proposals": []}], "two photos have the id 1"),
        ([{"proposals": []}], "has photos without an id"),
    ],
)
def test_ids_that_tell_no_photo_are_refused(tmp_path, rows, problem):
    write_rows(tmp_path / "part.parquet", rows)
    with pytest.raises(ValueError, match=problem):
        ParquetResults(tmp_path)


def test_files_of_something_else_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no Parquet files in this folder"):
        ParquetResults(tmp_path)
    file = tmp_path / "part.parquet"
    for content, problem in ((b"cut off", "expected proposals"), (None, "it has no column")):
        parquet.write_table(pa.table({"id": [1]}), file) if content is None else file.write_bytes(
            content
        )
        with pytest.raises(ValueError, match=rf"part\.parquet: .*{problem}"):
            ParquetResults(tmp_path)
    with pytest.raises(OSError, match="absent"):
        ParquetResults(tmp_path / "absent.parquet")
