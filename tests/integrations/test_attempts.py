"""A photo that ends the process which reads it costs its own row alone."""

import os
import signal
import tempfile
from dataclasses import dataclass

import pyarrow as pa
import pytest

from sharpmask.integrations import attempts
from sharpmask.integrations.arrow import Propose, schema
from sharpmask.integrations.attempts import PATIENCE, propose_again

PHOTOS = pa.table({"id": [1, 2, 3, 4], "path": ["a.jpg", "deadly.jpg", "b.jpg", "deadly.jpg"]})


@dataclass(frozen=True, kw_only=True)
class Deadly(Propose):
    """Some photos end the process, as a machine does that has no memory left."""

    fingerprint = "0123"

    def __call__(self, table):
        if "deadly.jpg" in table["path"].to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        rows = [row | {"proposals": [], "seconds": 0.1} for row in table.to_pylist()]
        return pa.Table.from_pylist(rows, schema())


def in_child(work):
    """How a child process ends."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where notes are kept, and a user without a home."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.fixture
def notes(temporary):
    return lambda: list(temporary.glob("sharpmask-attempts*/*"))


def test_what_succeeds_leaves_no_note(notes):
    harmless = PHOTOS.take([0, 2])
    assert propose_again(Deadly(), harmless, "part")["id"].to_pylist() == [1, 3]
    assert notes() == []


def test_each_process_that_ends_is_counted_and_what_succeeds_is_forgotten(notes):
    for count in range(1, 3):
        assert in_child(lambda: propose_again(Deadly(), PHOTOS, "part")) == signal.SIGKILL
        (note,) = notes()
        assert note.read_text() == str(count)
    propose_again(Deadly(), PHOTOS.take([0]), "part")
    assert notes() == []


@pytest.mark.slow  # starts processes
def test_photo_that_ends_each_process_has_an_error_and_the_others_their_rows(notes):
    for _ in range(PATIENCE):
        assert in_child(lambda: propose_again(Deadly(), PHOTOS, "part")) == signal.SIGKILL
    found = propose_again(Deadly(), PHOTOS, "part")
    assert found["id"].to_pylist() == [1, 2, 3, 4]
    said = "deadly.jpg: ended the process that read it; is it too large?"
    assert found["error"].to_pylist() == [None, said, None, said]
    assert notes() == []


def test_photos_that_end_this_process_all_the_same_are_given_up(monkeypatch, notes):
    monkeypatch.setattr(attempts, "_one_by_one", lambda propose, photos: [propose(photos)])
    for _ in range(2 * PATIENCE):
        assert in_child(lambda: propose_again(Deadly(), PHOTOS, "s3://b/part")) == signal.SIGKILL
    with pytest.raises(OSError, match="s3://b/part: its photos have ended 6 processes"):
        propose_again(Deadly(), PHOTOS, "s3://b/part")
    assert notes() == []


def test_first_attempts_use_no_process_apart(monkeypatch):
    monkeypatch.setattr(attempts, "ProcessPoolExecutor", None)
    for _ in range(PATIENCE - 1):
        in_child(lambda: propose_again(Deadly(), PHOTOS, "other"))
    propose_again(Deadly(), PHOTOS.take([0]), "other")
