"""Runs over many photos that are killed, stopped, or run out of disk."""

import itertools
import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from sharpmask.images import ImageError
from sharpmask.inference.batch import number_photos, write_records
from sharpmask.inference.journal import Journal, Photo


class Found:
    """Results that are given."""

    image = np.zeros((4, 6, 3), np.uint8)

    def __init__(self, *records):
        self.records = records

    def to_coco(self, image_id):
        return [{"image_id": image_id} | record for record in self.records]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        (tmp_path / "photos" / f"{number:02}.png").write_bytes(b"%d" % number)
    return tmp_path


def run(folder, streams=1, last=0):
    """Find as many records in a photo as its number says; kill this process at the last photo."""
    calls, lines = itertools.count(1), []

    def find(path):
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "log").open("a") as log:
            log.write(path.name + "\n")
        return Found(*({"score": k / 7} for k in range(int(path.stem))))

    photos = number_photos(sorted((folder / "photos").iterdir()))
    file = folder / "out" / "found.json"
    write_records(photos, find, file, settings={"a": 1}, streams=streams, report=lines.append)
    return lines


def run_killed(folder, streams, last):
    """The same in a copy of this process, which does not live to its end."""
    child = os.fork()
    if not child:
        try:
            run(folder, streams, last)
        finally:
            os._exit(0)
    _, ending = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ending) == -signal.SIGKILL


def expected(folder):
    """What a calm run writes."""
    photos = sorted((folder / "photos").iterdir())
    return [
        {"image_id": int(path.stem), "score": k / 7, "file_name": str(path)}
        for path in photos
        for k in range(int(path.stem))
    ]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("streams", [1, 3])
def test_a_run_that_is_killed_again_and_again_ends_like_a_calm_one(folder, streams):
    finished = 0
    # Of three streams, six photos are under way: 3 to 9 are done before the last kill.
    for last in (1, 4, 3, 6) if streams == 1 else (2, 9, 2):
        run_killed(folder, streams, last)
        assert not (folder / "out" / "found.json").exists()
        lines = (folder / "out" / ".found.json.journal").read_bytes().count(b"\n")
        assert lines >= finished
        finished = lines
    assert finished > 3
    (line,) = run(folder, streams)
    assert f"{finished - 1} of 12 photos were done before" in line
    assert json.loads((folder / "out" / "found.json").read_text()) == expected(folder)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [".lock", "found.json"]
    names = (folder / "log").read_text().split()
    assert set(names) == {f"{number:02}.png" for number in range(12)}
    # What was noted is not done again: only photos under way at a kill are.
    assert len(names) <= 12 + 4 * 2 * streams


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_line_that_was_cut_off_is_written_again(folder, cut):
    run_killed(folder, 1, 9)
    journal = folder / "out" / ".found.json.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    run(folder)
    assert json.loads((folder / "out" / "found.json").read_text()) == expected(folder)


def test_other_settings_or_a_changed_photo_begin_anew(folder):
    photos = number_photos(sorted((folder / "photos").iterdir()))
    file = folder / "out" / "found.json"

    def write(settings, asked, stop_at=None):
        def find(path):
            if int(path.stem) == stop_at:
                raise KeyboardInterrupt
            asked.append(int(path.stem))
            return Found({})

        return write_records(photos, find, file, settings=settings, streams=1)

    def ids():
        return [record["image_id"] for record in json.loads(file.read_text())]

    with pytest.raises(KeyboardInterrupt):
        write({"a": 1}, [], 5)
    assert ids() == list(range(5))  # what is done can be used, though the run is not over
    photos[2].path.write_bytes(b"another picture")
    again = []
    with pytest.raises(KeyboardInterrupt):
        write({"a": 1}, again, 8)
    assert again[:4] == [2, 5, 6, 7]  # and perhaps the next, which had begun
    anew = []
    assert write({"a": 2}, anew).complete
    assert anew == list(range(12))
    assert ids() == list(range(12))


def test_photos_that_leave_after_they_were_read_keep_their_records(folder):
    photos = number_photos(sorted((folder / "photos").iterdir()))
    file = folder / "out" / "found.json"
    lines = []

    def find(path):
        for earlier in photos[: max(0, int(path.stem) - 3)]:  # whose records are noted by now
            earlier.path.unlink(missing_ok=True)
        return Found({})

    outcome = write_records(photos, find, file, settings={}, report=lines.append)
    assert outcome.complete
    assert len(json.loads(file.read_text())) == len(photos)
    assert lines == []


def test_unreadable_photos_are_tried_again(folder):
    photos = number_photos(sorted((folder / "photos").iterdir()))
    file = folder / "out" / "found.json"
    lines = []

    def find(path):
        if path.stem == "03":
            raise ImageError(f"{path.name}: broken")
        return Found({})

    outcome = write_records(photos, find, file, settings={}, streams=2, report=lines.append)
    assert (outcome.photos, outcome.done, outcome.complete) == (12, 11, False)
    assert lines == ["03.png: broken"]
    assert len(json.loads(file.read_text())) == 11
    assert write_records(photos, lambda path: Found({}), file, settings={}).complete


@pytest.mark.reliability("folder run on a full disk: nothing lost that was done")
def test_a_full_disk_loses_nothing_that_was_done(folder):
    photos = number_photos(sorted((folder / "photos").iterdir()))
    file = folder / "found.json"
    file.write_text("the results of yesterday")

    def find(path):
        return Found({"text": "x" * 500})

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_records(photos, find, file, settings={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with Journal(folder / ".found.json.journal", {}) as journal:
        assert 3 <= len(journal.spans) < 12
    write_records(photos, find, file, settings={})
    assert [record["image_id"] for record in json.loads(file.read_text())] == list(range(12))


def test_memory_does_not_hold_what_was_found(folder):
    """A journal knows where the records are, not the records."""
    with Journal(folder / "journal", {}) as journal:
        for number in range(50):
            photo = Photo(Path(f"{number}.png"), number)
            journal.add(photo, (3, number), [{"text": "x" * 10_000}])
        assert journal.path.stat().st_size > 500_000
        assert len(repr(journal.__dict__)) < 15_000
        wanted = [Photo(Path(f"{number}.png"), number) for number in (3, 99, 1)]
        done = journal.done(wanted)
        assert [photo.image_id for photo, _ in done] == [3, 1]
        assert [journal.read(span)[0] for _, span in done] == [(3, 3), (3, 1)]


def test_a_photo_without_masks_keeps_its_size(folder):
    photo = Photo(Path("a.png"), 7)
    with Journal(folder / "journal", {}) as journal:
        journal.add(photo, (5, 8), [])
    with Journal(folder / "journal", {}) as journal:
        ((_, span),) = journal.done([photo])
        assert journal.read(span) == ((5, 8), [])


@pytest.mark.parametrize("line", [b'["7 a.png", []]', b"7"])
def test_a_journal_of_another_form_is_begun_anew(folder, line):
    with Journal(folder / "journal", {}) as journal:
        journal.file.write(line + b"\n")
    with Journal(folder / "journal", {}) as journal:
        assert journal.spans == {}
        journal.add(Photo(Path("a.png"), 7), (5, 8), [])
    assert (folder / "journal").read_bytes().count(b"\n") == 2
