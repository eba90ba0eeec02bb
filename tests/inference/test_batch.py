import json
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from found_masks import write_photos
from sharpmask.coco.numbers import integer
from sharpmask.engines import threads
from sharpmask.files import owned
from sharpmask.images import ImageError, read_image
from sharpmask.inference.batch import (
    find_photos,
    map_ordered,
    number_photos,
    overlay_paths,
    streams_for,
    write_records,
)
from sharpmask.inference.journal import Photo
from sharpmask.selection import Segments
from sharpmask.writers.formats import FORMATS, writers_for
from sharpmask.writers.writer import Destination

PICTURE = np.full((4, 6, 3), 77, np.uint8)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_results_come_in_order_whoever_ends_first(count):
    def slow(number):
        time.sleep(0.002 * (7 * number % 5))
        return number**2

    assert [call.result() for call in map_ordered(slow, range(20), count)] == [
        number**2 for number in range(20)
    ]


def test_a_failure_is_its_own_only():
    calls = list(map_ordered(lambda number: 12 // number, [2, 0, 3], 2))
    assert calls[0].result() == 6
    assert isinstance(calls[1].exception(), ZeroDivisionError)
    assert calls[2].result() == 4


def test_calls_overlap():
    meet = threading.Barrier(3, timeout=20)  # passes when three calls are running
    assert len([call.result() for call in map_ordered(lambda _: meet.wait(), range(6), 3)]) == 6


def test_few_results_wait():
    taken, most = 0, 0

    def items():
        nonlocal most
        for number in range(50):
            most = max(most, number - taken)
            yield number

    for _ in map_ordered(str, items(), 2):
        taken += 1
    assert taken == 50
    assert 2 <= most <= 4


def test_whoever_stops_listening_stops_the_work():
    done = []
    calls = map_ordered(done.append, iter(range(10**9)), 2)
    next(calls)
    calls.close()
    assert len(done) <= 4


def test_streams_are_bounded(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: range(64))
    assert [streams_for(count) for count in (0, 1, 3, 100)] == [1, 1, 3, 4]
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {3, 7})
    assert streams_for(100) == 2
    monkeypatch.delattr(threads.os, "sched_getaffinity")  # as on other systems
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert streams_for(100) == 1


# --- ids ---


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "7.png"], [139, 7]),
        (["0.png"], [0]),
        (["7.png", "cat.png"], [1, 2]),
        (["7.png", "07.png"], [1, 2]),
        (["a/7.png", "b/7.png"], [1, 2]),
        (["-7.png", "7.5.png"], [1, 2]),
        (["20240131123045123456.jpg", "7.png"], [1, 2]),
        ([f"{2**63 - 1}.png"], [2**63 - 1]),
        ([f"{2**63}.png"], [1]),
        (["1" * 240 + ".png"], [1]),
        (["\u0667.png", "\u00b28.png"], [1, 2]),
        (["\u0667.png"], [1]),
        ([], []),
    ],
)
def test_photos_have_the_numbers_of_their_names_or_positions_as_ids(names, ids):
    photos = number_photos([*map(Path, names)])
    assert [photo.image_id for photo in photos] == ids
    assert [str(photo.path) for photo in photos] == names
    assert [*map(integer, ids)] == ids  # as `evaluate` wants them


def write_annotations(path, *images):
    path.write_text(json.dumps({"images": [{"id": k, "file_name": name} for k, name in images]}))
    return path


def test_ids_come_from_an_annotation_file_by_file_name(tmp_path):
    file = write_annotations(
        tmp_path / "ann.json", (7, "a.jpg"), (8, "day/a.jpg"), ("9", "b.jpg"), (10.0, "c.jpg")
    )
    paths = [tmp_path / name for name in ("a.jpg", "day/a.jpg", "b.jpg", "x/c.jpg", "d.jpg")]
    lines = []
    photos = find_photos(paths, file, lines.append)
    assert photos == [*map(Photo, paths, (7, 8, 9, 10))]
    assert lines == [f"{paths[4]}: left out: no image has its name in {file}"]


def test_ids_come_from_names_as_other_systems_spell_them(tmp_path):
    file = write_annotations(tmp_path / "ann.json", (7, "day\\a.jpg"), (8, "caf\u00e9.jpg"))
    paths = [Path("day/a.jpg"), Path("cafe\u0301.jpg")]
    assert find_photos(paths, file, print) == [*map(Photo, paths, (7, 8))]


def test_a_photo_with_two_images_in_the_annotation_file_is_left_out(tmp_path):
    file = write_annotations(tmp_path / "ann.json", (7, "a.jpg"), (8, "a.jpg"), (9, "b.jpg"))
    lines = []
    found = find_photos([Path("a.jpg"), Path("b.jpg")], file, lines.append)
    assert found == [Photo(Path("b.jpg"), 9)]
    assert "a.jpg: left out: several images have its name" in lines[0]


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "{", '{"images": [{"id": 1}]}', '{"images": [{"id": 1.5, "file_name": "a.jpg"}]}',
     '{"images": [{"id": 9223372036854775808, "file_name": "a.jpg"}]}',
     '{"images": [{"id": true, "file_name": "a.jpg"}]}'],
)  # fmt: skip
def test_an_annotation_file_without_usable_ids_is_refused(tmp_path, content):
    (tmp_path / "ann.json").write_text(content)
    with pytest.raises(ValueError, match=r"ann\.json: expected a COCO annotation file"):
        find_photos([Path("a.jpg")], tmp_path / "ann.json", print)


def test_an_annotation_file_of_other_photos_is_refused(tmp_path):
    file = write_annotations(tmp_path / "ann.json", (7, "a.jpg"))
    with pytest.raises(ValueError, match="names none of the 1 photos"):
        find_photos([Path("b.jpg")], file, lambda line: None)


# --- names of pictures ---


def test_pictures_are_named_after_their_photos(tmp_path):
    assert overlay_paths([Path("a.jpg")], tmp_path) == {Path("a.jpg"): tmp_path / "overlay.png"}
    names = (
        "x/41.jpg",
        "41.png",
        "y/41.jpg",
        "b.tar.jpg",
        "A.jpg",
        "a.jpg",
        "41-2.jpg",
        "写真.png",
    )
    paths = [*map(Path, names)]
    found = overlay_paths(paths, tmp_path)
    assert [found[path].name for path in paths] == [
        "41.png", "41-2.png", "41-3.png", "b.tar.png", "A.png", "a-2.png", "41-2-2.png", "写真.png",
    ]  # fmt: skip
    assert {path.parent for path in found.values()} == {tmp_path / "overlays"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", ["a", "ä", "写", "😀", "e\u0301"])
def test_pictures_of_long_names_have_names_that_can_be_written(tmp_path, letter):
    stem = letter * (251 // len(os.fsencode(letter)))
    paths = [tmp_path / f"{stem}.jpg", tmp_path / f"{stem}.png", Path("x") / f"{stem}.jpg"]
    found = [*overlay_paths(paths, tmp_path).values()]
    assert len({path.name for path in found}) == 3
    (tmp_path / "overlays").mkdir()
    for path in found:
        path.touch()
        assert path.name.startswith(letter * 5)


class Found:
    image = PICTURE

    def __init__(self, path):
        if path.suffix == ".bad":
            raise ImageError(f"{path.name}: broken; fetch it again")
        self.path = path

    def to_coco(self, image_id):
        return [{"image_id": image_id}]


def write(paths, file, draw=lambda found: PICTURE, **options):
    lines = []
    outcome = write_records(
        number_photos(paths), Found, file, settings={}, draw=draw, report=lines.append, **options
    )
    return outcome, lines


@pytest.mark.parametrize("link", ["itself", "symlink_to", "hardlink_to"])
def test_a_picture_never_takes_the_place_of_a_photo(tmp_path, link):
    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    single, folder = out / "overlay.png", out / "overlays" / "41.png"
    photos = [single, folder]
    if link != "itself":
        photos = [tmp_path / "1.png", tmp_path / "41.png"]
    for photo, place in zip(photos, (single, folder), strict=True):
        photo.write_bytes(b"the photo")
        if link != "itself":
            getattr(place, link)(photo)
    write(photos[:1], out / "found.json")
    write([Path("41.jpg"), photos[1]], out / "found.json")
    assert [photo.read_bytes() for photo in photos] == [b"the photo"] * 2
    assert np.array_equal(read_image(out / "overlay-2.png"), PICTURE)
    assert sorted(p.name for p in (out / "overlays").iterdir()) == [
        "41-2.png",
        "41-3.png",
        "41.png",
    ]


@pytest.mark.parametrize("link", ["itself", "symlink_to", "hardlink_to"])
@pytest.mark.parametrize("name", ["found.json", ".found.json.journal"])
def test_results_are_not_written_where_a_photo_lies(tmp_path, link, name):
    photo = tmp_path / name if link == "itself" else tmp_path / "photo.jpg"
    photo.write_bytes(b"the photo")
    if link != "itself":
        getattr(tmp_path / name, link)(photo)
    with pytest.raises(ValueError, match="is one of the photos; give another --output"):
        write([photo], tmp_path / "found.json")
    assert photo.read_bytes() == b"the photo"


# --- records ---


def test_a_picture_that_cannot_be_written_costs_no_masks(tmp_path):
    paths = [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    (tmp_path / "overlays" / "1.png").mkdir(parents=True)
    outcome, (line,) = write(paths, tmp_path / "found.json")
    assert (outcome.done, outcome.undrawn, outcome.complete) == (2, 1, False)
    assert "1.png: cannot be written" in line
    assert line.endswith("its masks are kept")
    assert len(json.loads((tmp_path / "found.json").read_text())) == 2
    assert (tmp_path / "overlays" / "2.png").is_file()


def test_no_folder_for_pictures_costs_no_masks(tmp_path):
    (tmp_path / "overlays").write_text("a file")
    outcome, lines = write([tmp_path / "1.jpg", tmp_path / "2.jpg"], tmp_path / "found.json")
    assert (outcome.done, outcome.undrawn) == (2, 2)
    assert len(lines) == 2


def test_an_unreadable_photo_leaves_no_older_results(tmp_path):
    for name in ("found.json", "overlay.png"):
        (tmp_path / name).write_text("of another run")
    outcome, lines = write([tmp_path / "1.bad"], tmp_path / "found.json")
    assert (outcome.done, lines) == (0, ["1.bad: broken; fetch it again"])
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_photo_that_became_unreadable_leaves_no_older_files(tmp_path):
    photos, _ = write_photos(tmp_path / "photos", ["a.png", "b.png"])
    destination = Destination(tmp_path / "out", [photo.path for photo in photos])
    formats = [name for name in FORMATS if name != "parquet"]
    found = {photo.path: photo for photo in photos}

    class Found(NamedTuple):
        image: np.ndarray
        segments: Segments

        def to_coco(self, image_id):
            return self.segments.to_coco(image_id)

    def find(path):
        read_image(path)
        return Found(found[path].image, found[path].segments)

    def run():
        return write_records(
            [Photo(photo.path, photo.id) for photo in photos], find, tmp_path / "out/found.json",
            settings={}, draw=lambda found: found.image, writers=writers_for(formats, destination),
        )  # fmt: skip

    def named(letter):
        return [path for path in (tmp_path / "out").rglob("*") if path.stem == letter]

    assert run().complete
    assert len(named("a")) == len(named("b")) == 7  # labelme, cut-outs, 2 of masks, 2 of YOLO, one
    photos[1].path.write_bytes(b"broken")
    assert run().done == 1
    assert len(named("a")) == 7
    assert named("b") == []


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    with (
        owned(tmp_path),
        pytest.raises(ValueError, match="another run is writing there; wait for it"),
    ):
        write([tmp_path / "1.jpg"], tmp_path / "found.json")
    assert write([tmp_path / "1.jpg"], tmp_path / "found.json")[0].complete


def test_progress_passes_every_photo_on(tmp_path):
    counts = []

    def progress(items, count):
        counts.append(count)
        for item in items:
            counts.append(item[0].image_id)
            yield item

    write([Path(f"{k}.jpg") for k in (5, 3, 8)], tmp_path / "found.json", progress=progress)
    assert counts == [3, 5, 3, 8]
