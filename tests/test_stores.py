"""Files of this machine, of a file system of fsspec's, of an object store."""

import sys

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from s3_server import ADDRESS, s3_server
from sharpmask import stores
from sharpmask.stores import (
    file_names,
    is_folder,
    join,
    matching,
    patiently,
    read_bytes,
    write_bytes,
)

NAMES = ["1.jpg", "2 #%41 ü.jpg"]


@pytest.fixture
def tops(tmp_path):
    """Addresses of empty folders."""
    memory = fsspec.filesystem("memory")
    memory.rm("/", recursive=True) if memory.ls("/") else None
    return [str(tmp_path / "local"), f"file://{tmp_path}/uri", "memory://top/folder"]


def check(top):
    """All that is done with a folder."""
    assert file_names(top) == []
    assert not is_folder(top)
    for name in [*NAMES, "deeper/3.jpg"]:
        write_bytes(join(top, name), b"first")
        write_bytes(join(top, name), name.encode())
    assert file_names(top) == file_names(top + "/") == NAMES
    assert is_folder(top)
    assert is_folder(top + "/")
    assert not is_folder(join(top, NAMES[0]))
    for name in NAMES:
        assert read_bytes(join(top, name)) == name.encode()
    assert matching(join(top, "*.jpg")) == [join(top, name) for name in NAMES]
    assert matching(join(top, "**/*.jpg")) == [join(top, name) for name in [*NAMES, "deeper/3.jpg"]]
    assert matching(join(top, "*.png")) == []
    with pytest.raises(FileNotFoundError):
        read_bytes(join(top, "missing"))


def test_files_are_written_read_listed_and_matched_alike_everywhere(tops):
    for top in tops:
        check(top)


@pytest.mark.real  # starts a server
@pytest.mark.parametrize("faults", [0.0, 0.2])
def test_object_store_does_all_that_a_folder_does_also_when_it_fails_now_and_then(faults):
    with s3_server(seed=1, faults=faults) as store:
        check(f"{ADDRESS}/top/folder")
        assert bool(store.counts()["error"]) == bool(faults)


def test_paths_are_made_absolute_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stores.absolute("a/../b.jpg") == str(tmp_path / "b.jpg")
    assert stores.absolute("s3://bucket/a/../b.jpg") == "s3://bucket/a/../b.jpg"
    write_bytes("here.txt", b"x")
    assert matching("*.txt") == [str(tmp_path / "here.txt")]


def test_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="nowhere"):
        read_bytes("nowhere://x/y")


def test_missing_pyarrow_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'sharpmask\[parquet\]'"):
        read_bytes("s3://bucket/photo.jpg")


class Failing:
    """Fails some times before it succeeds."""

    def __init__(self, times, error):
        self.left = times
        self.error = error
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


@pytest.fixture
def pauses(monkeypatch):
    slept = []
    monkeypatch.setattr(stores.time, "sleep", slept.append)
    return slept


def test_what_fails_for_a_while_succeeds_in_the_end_with_growing_pauses(pauses):
    attempt = Failing(4, OSError("500"))
    assert patiently(attempt) == "done"
    assert attempt.calls == 5
    for pause, mean in zip(pauses, stores.PAUSES_S, strict=True):
        assert mean / 2 <= pause <= mean * 1.5


def test_what_fails_for_ever_is_given_up(pauses):
    attempt = Failing(9, OSError("500"))
    with pytest.raises(OSError, match="500"):
        patiently(attempt)
    assert attempt.calls == 5


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("x"), OSError("AWS Error ACCESS_DENIED")]
)
def test_what_cannot_succeed_is_tried_once(pauses, error):
    attempt = Failing(9, error)
    with pytest.raises(OSError, match=str(error)):
        patiently(attempt)
    assert attempt.calls == 1
    assert pauses == []


def test_write_that_fails_half_way_leaves_the_old_file(tops, pauses, monkeypatch):
    address = join(tops[2], "file.bin")
    write_bytes(address, b"old")

    def failing(self, path, content=b"", **options):
        raise OSError("the disk is full")

    monkeypatch.setattr(MemoryFileSystem, "mv", failing)
    with pytest.raises(OSError, match="the disk is full"):
        write_bytes(address, b"new")
    assert read_bytes(address) == b"old"
