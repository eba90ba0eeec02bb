import multiprocessing
import os
import signal
import weakref
from pathlib import Path

import numpy as np
import pytest

import sharpmask.writers.parquet
from found_masks import segments_of, without_pixels, write_photos
from sharpmask.writers.formats import AS_POLYGONS, FORMATS, PLACES, writers_for
from sharpmask.writers.writer import Destination, Segmented


def run(photos, output, **choices):
    destination = Destination(output, [photo.path for photo in photos])
    for writer in writers_for(FORMATS, destination, **choices):
        for photo in photos:
            writer.add(photo)
        writer.finish(map(without_pixels, photos))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("polygons", [False, True])
def test_all_formats_together_write_the_same_twice(tmp_path, polygons):
    photos, _ = write_photos(tmp_path / "photos", ["a.png", "x/a.png"])
    photos += write_photos(tmp_path / "photos", ["empty.png"], masks=None)[0]
    before = contents(tmp_path / "photos")
    run(photos, tmp_path / "out", polygons=polygons)
    first = contents(tmp_path / "out")
    run(photos, tmp_path / "out", polygons=polygons)
    assert contents(tmp_path / "out") == first
    assert contents(tmp_path / "photos") == before
    assert {path.parts[0] for path in first} == set(PLACES)
    assert not any(path.name.endswith(".part") for path in first)


@pytest.mark.parametrize(
    "name", ["照" * 80 + ".png", "a" * 250 + ".png", "...png", "-.png", "a b.png"]
)
@pytest.mark.parametrize("format_name", FORMATS)
def test_any_name_that_a_disk_allows_is_written(tmp_path, name, format_name):
    photos, _ = write_photos(tmp_path / "photos", [name])
    writer = writers_for([format_name], Destination(tmp_path / "out", [photos[0].path]))[0]
    writer.add(photos[0])
    writer.finish(photos)
    assert writer.place.exists()
    assert set((tmp_path / "out").iterdir()) == {writer.place}


@pytest.mark.parametrize(("format_name", "most"), [("coco", 2), ("labelstudio", 2), ("parquet", 4)])
def test_photos_are_let_go_as_the_file_grows(tmp_path, monkeypatch, format_name, most):
    monkeypatch.setattr(sharpmask.writers.parquet, "_ROWS", 3)
    alive = weakref.WeakSet()
    at_once = []

    def photos():
        for number in range(12):
            segments = segments_of([np.ones((2, 3), bool)])
            alive.add(segments)
            at_once.append(len(alive))
            yield Segmented(number, Path(f"{number}.jpg"), segments)
            del segments

    writers_for([format_name], Destination(tmp_path, []))[0].finish(photos())
    assert max(at_once) <= most


def test_each_format_is_written_once(tmp_path):
    destination = Destination(tmp_path, [])
    assert len(writers_for(["coco", "yolo", "coco"], destination)) == 2


def test_unknown_format_is_refused_with_the_names(tmp_path):
    with pytest.raises(ValueError, match=r"unknown format 'voc'; there are coco, yolo"):
        writers_for(["voc"], Destination(tmp_path, []))


def test_polygons_without_a_format_that_leaves_the_choice_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"polygons: only for .*labelme"):
        writers_for(["yolo", "masks"], Destination(tmp_path, []), polygons=True)
    assert writers_for(["yolo", "coco"], Destination(tmp_path, []), polygons=True)
    assert set(AS_POLYGONS) < set(FORMATS)


@pytest.mark.parametrize(
    ("format_name", "inside"),
    [("masks", "masks/indexed/a.png"), ("cutouts", "cutouts/a/001.png"), ("coco", "coco.json")],
)
@pytest.mark.parametrize("given", ["path", "relative", "link"])
def test_photo_that_would_be_written_over_is_refused(
    tmp_path, monkeypatch, format_name, inside, given
):
    photo = tmp_path / "out" / inside
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"a photo")
    monkeypatch.chdir(tmp_path)
    if given == "relative":
        photo = Path("out/../out") / inside
    elif given == "link":
        (tmp_path / "b.png").symlink_to(photo)
        photo = tmp_path / "b.png"
    with pytest.raises(ValueError, match=r"where results are written; give another --output"):
        writers_for([format_name], Destination(tmp_path / "out", [photo]))


def test_a_photo_that_is_a_link_in_a_circle_is_accepted(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert writers_for(["masks"], Destination(tmp_path / "out", [tmp_path / "loop.png"]))


def test_a_linked_image_of_a_data_set_is_not_taken_for_a_photo(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png"])
    run(photos, tmp_path / "out")
    again = tmp_path / "out/yolo/images/a.png"
    with pytest.raises(ValueError, match="give another --output"):
        writers_for(["yolo"], Destination(tmp_path / "out", [again]))


def _killed_while_it_writes(photos, output, after):
    """In a process of its own: killed at the given call of `fsync`."""
    calls = 0
    real = os.fsync

    def fsync(descriptor):
        nonlocal calls
        calls += 1
        if calls > after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    run(photos, output)


@pytest.mark.parametrize("after", [0, 2, 6, 11])
def test_killed_run_leaves_whole_files_and_goes_on(tmp_path, after):
    photos, _ = write_photos(tmp_path / "photos", ["a.png", "b.png"])
    run(photos, tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(
        target=_killed_while_it_writes, args=(photos, tmp_path / "out", after)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    whole = {path.as_posix(): text for path, text in contents(tmp_path / "whole").items()}
    left = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    for path, content in left.items():
        if not any(part.endswith(".part") for part in path.parts):
            assert content == whole[path.as_posix()]
    run(photos, tmp_path / "out")
    after_all = {
        p.as_posix(): c for p, c in contents(tmp_path / "out").items() if ".part" not in str(p)
    }
    assert after_all == whole
