import gzip
import json
import re

import pytest

from sharpmask.coco import results as results_module
from sharpmask.coco.results import ResultsFile


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("kept", [0, 17, 40])
def test_results_are_read_image_by_image_in_any_order(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(results_module, "_KEPT_RECORDS", kept)
    monkeypatch.setattr(results_module, "_CHUNK_BYTES", 150)  # so that records cross chunks
    records = [
        {"image_id": 7 - index % 3, "score": index / 40, "note": 'é, ] } \\ " ' * (index % 3)}
        for index in range(40)
    ]
    for content in (json.dumps(records), json.dumps(records, indent=2, ensure_ascii=False)):
        results = ResultsFile(write(tmp_path / "results.json", content))
        assert results.image_ids == [5, 6, 7]
        assert len(results) == 40
        assert not results.has_masks
        for image_id in (4, 5, 6, 7, 8):
            expected = [record for record in records if record["image_id"] == image_id]
            assert results.proposals(image_id) == expected
        assert list(results) == records


def test_empty_results(tmp_path):
    results = ResultsFile(write(tmp_path / "results.json", " [ ]"))
    assert (len(results), results.image_ids, results.proposals(1)) == (0, [], [])


def test_masks_are_noticed(tmp_path):
    mask = {"image_id": 1, "segmentation": {"size": [1, 1], "counts": "01"}}
    for records in ([mask, {"image_id": 1}], [{"image_id": 1}, mask]):
        assert ResultsFile(write(tmp_path / "results.json", records)).has_masks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, 'JSON list of records, but it starts with \'{"annotations"'),
        ("", "starts with ''"),
        ("[3]", "record 0 needs an integer image_id, got 3"),
        ([{"image_id": 1}, {"imageId": 2}], "record 1 needs an integer image_id"),
        ([{"image_id": True}], "record 0: image_id is true, not an integer"),
        ([{"image_id": 2**70}], "record 0: image_id is .* more than 64 bits"),
        ([{"image_id": 1.5}], "record 0: image_id is 1.5, not an integer"),
        ([{"image_id": None}], "record 0: image_id is null, not an integer"),
        ('[{"image_id": NaN}]', "record 0: image_id is NaN, not an integer"),
        ('[{"image_id": 1}, {"image_id": 2', "broken JSON at byte 18;"),
        ('[{"image_id": 1}', "broken JSON at byte 16; is .* cut off"),
        ('[{"image_id": 1}, oops]', "broken JSON at byte 18;"),
        ("[" + "[" * 100_000, "broken JSON at byte 1;"),
    ],
)
def test_broken_results_are_refused(tmp_path, content, message):
    path = write(tmp_path / "results.json", content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
        ResultsFile(path)


def test_a_file_packed_by_gzip_says_so(tmp_path):
    path = tmp_path / "results.json.gz"
    path.write_bytes(gzip.compress(b"[]"))
    with pytest.raises(ValueError, match=r"results\.json\.gz: it is packed by gzip; unpack it"):
        ResultsFile(path)


def test_a_file_of_parquet_says_so(tmp_path):
    path = write(tmp_path / "found.pq", "PAR1...")
    with pytest.raises(ValueError, match=r"found\.pq: it is a Parquet file: of proposals its name"):
        ResultsFile(path)


def test_a_broken_record_does_not_pull_the_rest_of_a_large_file_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "_CHUNK_BYTES", 100)
    path = write(tmp_path / "results.json", [{"image_id": 1, "note": "x" * 300}])
    with pytest.raises(
        ValueError, match="broken JSON at byte 1; is a record longer than 100 bytes"
    ):
        ResultsFile(path)


def test_image_ids_that_are_written_as_text_or_floats_are_one_id(tmp_path):
    records = [{"image_id": image_id, "n": n} for n, image_id in enumerate((2, 2.0, "2", "2.0"))]
    results = ResultsFile(write(tmp_path / "results.json", records))
    assert results.image_ids == [2]
    assert results.proposals(2) == records
