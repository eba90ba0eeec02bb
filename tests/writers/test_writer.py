import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpmask.writers.writer import Destination, write_array

bad_bytes = pytest.mark.skipif(sys.platform != "linux", reason="names there are Unicode")


def names_of(*photos):
    destination = Destination(Path("out"), [Path(photo) for photo in photos])
    return [destination.names[photo] for photo in destination.photos]


# --- names ---


def test_name_is_the_photos_without_its_suffix():
    assert names_of("a.jpg", "b/c.d.png", "Ünïcode 照片.webp") == ["a", "c.d", "Ünïcode 照片"]


def test_repeated_names_are_numbered_in_any_case():
    assert names_of("x/a.jpg", "y/A.jpg", "a.png") == ["a", "A-2", "a-3"]


def test_photo_called_like_a_numbered_one_keeps_its_name():
    assert names_of("x/a.jpg", "y/a.jpg", "a-2.jpg") == ["a", "a-3", "a-2"]


@pytest.mark.parametrize("name", ["...jpg", ".. .jpg", "..", "x/..jpg"])
def test_name_is_never_a_folders_own(name):
    (stem,) = names_of(name)
    assert stem.strip(". ")  # what a suffix is after dots alone depends on the version of Python


def test_name_keeps_no_dot_or_space_at_its_end():
    assert names_of("a. .jpg", "b .png") == ["a", "b"]


@pytest.mark.parametrize("letter", ["a", "é", "照", "😀"])
def test_long_names_are_cut_in_bytes_and_stay_apart(letter):
    stem = letter * (240 // len(letter.encode()))
    first, second = names_of(f"{stem}1.jpg", f"{stem}2.jpg")
    assert first != second
    assert first.startswith(letter * 20)
    assert all(len(os.fsencode(name)) <= 143 - len(".json") for name in (first, second))


@bad_bytes
def test_name_that_is_not_utf8_is_kept():
    photo = os.fsdecode(b"caf\xe9.jpg")
    assert names_of(photo) == [os.fsdecode(b"caf\xe9")]


@given(st.lists(st.text("aAb-2. é", min_size=1, max_size=5), unique=True))
def test_names_are_apart_on_every_file_system(stems):
    photos = list(dict.fromkeys(Path(f"{stem}.jpg") for stem in stems))
    names = names_of(*photos)
    assert len({name.casefold() for name in names}) == len(names)
    assert not {".", "..", ""} & set(names)


# --- folders ---


def test_paths_are_relative_to_the_folder_of_all_photos(tmp_path):
    photos = [tmp_path / "p/a.jpg", tmp_path / "p/q/b.jpg"]
    destination = Destination(tmp_path / "out", photos)
    assert destination.root == tmp_path / "p"
    assert [destination.relative(photo) for photo in photos] == ["a.jpg", "q/b.jpg"]


def test_relative_paths_and_parents_are_understood(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    destination = Destination(Path("out"), [Path("../p/a.jpg")])
    assert destination.root == tmp_path / "p"
    assert destination.relative(Path("../p/a.jpg")) == "a.jpg"


def test_a_linked_photo_keeps_its_own_name(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "photos").mkdir()
    link = tmp_path / "photos/a.jpg"
    link.symlink_to(tmp_path / "store/x123.jpg")
    assert Destination(tmp_path, [link]).relative(link) == "a.jpg"


def test_run_without_photos_has_a_destination(tmp_path):
    assert not Destination(tmp_path, []).names


# --- JSON ---


@pytest.mark.parametrize("items", [[], [1], [{"a": [2]}, None, "ü"]])
def test_array_is_json(tmp_path, items):
    path = tmp_path / "array.json"
    with path.open("wb") as file:
        assert write_array(file, iter(items)) == len(items)
    assert json.loads(path.read_bytes()) == items


def test_array_refuses_what_is_not_json(tmp_path):
    with (tmp_path / "array.json").open("wb") as file, pytest.raises(ValueError, match="JSON"):
        write_array(file, [float("nan")])
