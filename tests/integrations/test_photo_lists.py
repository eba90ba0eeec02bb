import json
import os
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from sharpmask.integrations.photo_lists import list_photos, with_ids_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.md", "deep/c.webp"):
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path / "photos"


def paths(source, report=print):
    return list_photos(str(source), report)["path"].to_pylist()


def test_photos_of_a_folder_are_listed_by_name(folder, monkeypatch):
    said = []
    expected = [str(folder / "a.png"), str(folder / "b.JPG")]
    assert paths(folder, said.append) == expected
    assert said == [f"{folder}: 1 files passed over (1 x .md)"]
    monkeypatch.chdir(folder.parent)
    assert paths("photos") == expected
    assert paths(f"file://{folder}") == [f"file://{path}" for path in expected]


def test_patterns_reach_deeper_folders(folder):
    assert paths(folder / "**/*.webp") == [str(folder / "deep/c.webp")]
    assert paths(folder / "*.png") == [str(folder / "a.png")]  # no hidden one
    assert paths(folder / "a.png") == [str(folder / "a.png")]


def test_quoted_patterns_begin_at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert paths("~/photos/*.png") == [str(folder / "a.png")]


def test_photo_with_signs_of_a_pattern_in_its_name_is_that_photo(folder):
    for name in ("c[1].png", "what?.png"):
        (folder / name).write_bytes(b"")
        assert paths(folder / name) == [str(folder / name)]


def test_text_file_lists_a_path_in_each_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_bytes(
        "\ufeffa b.jpg\r\n\n/x/ü.png\na b.jpg\ns3://b/c.jpg".encode()
    )
    assert paths("list.txt") == [str(tmp_path / "a b.jpg"), "/x/ü.png", "s3://b/c.jpg"]


def test_text_file_in_another_encoding_costs_its_odd_names_or_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes("/a.png\r\n/caf\xe9.png\r\n".encode("cp1252"))
    assert paths(tmp_path / "list.txt") == ["/a.png", r"/caf\xe9.png"]
    (tmp_path / "list.txt").write_text("/a.png", "utf-16")
    with pytest.raises(ValueError, match=r"list\.txt: is not a text file in UTF-8"):
        paths(tmp_path / "list.txt")


def test_parquet_file_lists_paths_and_ids(tmp_path):
    table = pa.table({"id": [5, 6, 7], "path": ["/b.jpg", None, "/a.jpg"], "more": [0, 0, 0]})
    parquet.write_table(table, tmp_path / "list.parquet")
    said = []
    photos = list_photos(str(tmp_path / "list.parquet"), said.append)
    assert photos.to_pydict() == {"path": ["/b.jpg", "/a.jpg"], "id": [5, 7]}
    assert said == [f"{tmp_path / 'list.parquet'}: 1 rows without a path are left out"]
    parquet.write_table(pa.table({"path": ["/a.jpg", "/a.jpg"]}), tmp_path / "list.parquet")
    assert list_photos(str(tmp_path / "list.parquet"), print).to_pydict() == {"path": ["/a.jpg"]}


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"url": ["x"]}, "has no column path, only url"),
        ({"path": ["x", "y"], "id": [1, 1]}, "a number of its own"),
        ({"path": ["x", "y"], "id": [1, None]}, "a number of its own"),
        ({"path": ["x"], "id": ["one"]}, "expected a Parquet file of paths"),
        ({"path": pa.array([None], pa.string())}, "no photos there"),
        (None, "expected a Parquet file of paths"),
    ],
)
def test_malformed_parquet_list_is_refused_by_name(tmp_path, columns, problem):
    file = tmp_path / "list.parquet"
    if columns is None:
        file.write_bytes(b"no parquet")
    else:
        parquet.write_table(pa.table(columns), file)
    with pytest.raises(ValueError, match=rf"list\.parquet: .*{problem}"):
        list_photos(str(file), print)


@pytest.mark.parametrize("name", ["empty", "empty/*.jpg", "empty.txt"])
def test_source_without_photos_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.*: no photos"):
        list_photos(str(tmp_path / name), print)


@pytest.mark.skipif(sys.platform != "linux", reason="names there are Unicode")
def test_name_that_is_not_utf8_keeps_its_odd_bytes_in_words(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert paths(tmp_path) == [rf"{tmp_path}/caf\xe9.png"]


def test_annotations_give_ids_and_leave_out_what_they_do_not_name(tmp_path):
    images = [{"id": 30, "file_name": "a.jpg"}, {"id": 40, "file_name": "x/b.jpg"}]
    (tmp_path / "ann.json").write_text(json.dumps({"images": images}))
    photos = pa.table({"path": ["s3://bucket/x/b.jpg", "/p/a.jpg", "/p/c.jpg"]})
    said = []
    found = with_ids_of(photos, tmp_path / "ann.json", said.append)
    assert found.to_pydict() == {"path": ["s3://bucket/x/b.jpg", "/p/a.jpg"], "id": [40, 30]}
    assert "c.jpg: left out" in said[0]
