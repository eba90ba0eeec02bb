import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import sharpmask.writers.parquet
from found_masks import mask_of, segments_of, write, write_photos
from sharpmask.writers.parquet import ParquetWriter, schema
from sharpmask.writers.writer import Destination, Segmented


def test_pyarrow_reads_a_row_a_photo(tmp_path):
    photos, truth = write_photos(tmp_path / "photos", ["a.png", "x/ü.png"])
    write(ParquetWriter, photos, tmp_path)
    rows = parquet.read_table(tmp_path / "proposals.parquet").to_pylist()
    assert [(row["id"], row["path"]) for row in rows] == [(p.id, str(p.path)) for p in photos]
    for row, photo in zip(rows, photos, strict=True):
        assert (row["height"], row["width"]) == (96, 128)
        for proposal, mask, score in zip(
            row["proposals"], truth[photo.path], photo.segments.scores, strict=True
        ):
            rle = {"size": [row["height"], row["width"]], "counts": proposal["rle"]}
            np.testing.assert_array_equal(mask_of(rle), mask)
            rows_in, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            left, top = columns[0], rows_in[0]
            box = [left, top, columns[-1] + 1 - left, rows_in[-1] + 1 - top]
            assert proposal["bbox"] == box
            assert proposal["area"] == mask.sum()
            assert proposal["score"] == score


@pytest.mark.parametrize("names", [[], ["a.png"]])
def test_files_without_proposals_have_the_same_columns(tmp_path, names):
    photos, _ = write_photos(tmp_path / "photos", names, masks=None)
    write(ParquetWriter, photos, tmp_path)
    file = parquet.ParquetFile(tmp_path / "proposals.parquet")
    assert file.metadata.num_rows == len(names)
    assert file.schema_arrow.equals(schema())
    # Spark, Daft and Ray read files together only if their types are equal.
    full, _ = write_photos(tmp_path / "photos", ["b.png"])
    write(ParquetWriter, full, tmp_path / "full")
    files = [tmp_path / "proposals.parquet", tmp_path / "full/proposals.parquet"]
    together = pa.concat_tables([parquet.read_table(each) for each in files])
    assert len(together) == len(names) + 1


def test_photos_are_written_in_groups_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sharpmask.writers.parquet, "_ROWS", 3)
    taken = []

    def photos():
        for number in range(8):
            taken.append(number)
            yield Segmented(number, Path(f"{number}.jpg"), segments_of([np.ones((2, 3), bool)]))

    ParquetWriter(Destination(tmp_path, [])).finish(photos())
    file = parquet.ParquetFile(tmp_path / "proposals.parquet")
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert groups == [3, 3, 2]
    assert file.read()["id"].to_pylist() == taken == list(range(8))


@pytest.mark.skipif(sys.platform != "linux", reason="names there are Unicode")
def test_name_that_is_not_utf8_keeps_its_odd_bytes_in_words(tmp_path):
    photo = Segmented(1, Path(os.fsdecode(b"caf\xe9.png")), segments_of([], (4, 5)))
    write(ParquetWriter, [photo], tmp_path)
    table = parquet.read_table(tmp_path / "proposals.parquet")
    assert table["path"].to_pylist() == [r"caf\xe9.png"]


def test_missing_pyarrow_is_named_before_a_photo_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'sharpmask\[parquet\]'"):
        ParquetWriter(Destination(tmp_path, []))
