import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sharpmask.files import LOCK, fingerprint, owned, replacing_file, replacing_folder, write_json

LONG = "写" * 80 + "ab.json"  # 247 bytes


def write(path, content, **options):
    with replacing_file(path, **options) as file:
        file.write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["a.json", LONG, "x" * 255])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path, name):
    path = tmp_path / "deep" / "er" / name
    write(path, b"old")
    with path.open("rb") as reader:
        write(path, b"new")
        assert reader.read() == b"old"  # a reader keeps what it has opened
    assert path.read_bytes() == b"new"
    assert names(path.parent) == [name]
    path.with_name("plain").touch()
    assert path.stat().st_mode == path.with_name("plain").stat().st_mode


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a"
    write(path, b"old")

    def fail():
        with replacing_file(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_the_replaced_file_is_kept_if_asked_for(tmp_path):
    path, kept = tmp_path / "a", tmp_path / "a.old"
    write(path, b"1", keep=kept)
    assert names(tmp_path) == ["a"]
    write(path, b"2", keep=kept)
    write(path, b"3", keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"3", b"2")


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a"
    both = threading.Barrier(2, timeout=20)

    def writer(letter):
        with replacing_file(path) as file:
            both.wait()  # both are writing now
            file.write(letter * 100_000)

    threads = [threading.Thread(target=writer, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 100_000, b"b" * 100_000)
    assert names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from sharpmask.files import replacing_file, replacing_folder
with replacing_file(Path(sys.argv[1])) as file, replacing_folder(Path(sys.argv[2])) as folder:
    file.write(b"half")
    (folder / "half").touch()
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_keeps_the_old_and_the_next_owner_tidies_up(tmp_path):
    file, folder = tmp_path / "a", tmp_path / "b"
    write(file, b"old")
    with replacing_folder(folder) as new:
        (new / "old").touch()
    done = subprocess.run([sys.executable, "-c", KILLED, file, folder])
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"old"
    assert names(folder) == ["old"]
    assert len(names(tmp_path)) == 4
    (tmp_path / ".mine").touch()
    with owned(tmp_path):
        assert names(tmp_path) == [LOCK, ".mine", "a", "b"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "deep" / LONG
    for content in ("old", "new"):
        with replacing_folder(path) as folder:
            assert names(folder) == []
            (folder / content).touch()
    assert names(path) == ["new"]
    with pytest.raises(KeyError), replacing_folder(path) as folder:
        raise KeyError
    assert names(path) == ["new"]
    assert names(path.parent) == [LONG]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"写": [1, 2.5, None]})
    assert json.loads(path.read_bytes()) == {"写": [1, 2.5, None]}
    for content in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert json.loads(path.read_bytes()) == {"写": [1, 2.5, None]}
    assert names(tmp_path) == ["a.json"]


def test_a_fingerprint_is_of_the_content(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"ab")
    second.write_bytes(b"c")
    assert fingerprint(first, second) == fingerprint(b"ab", b"c")
    assert len({fingerprint(b"ab", b"c"), fingerprint(b"a", b"bc"), fingerprint(b"abc")}) == 3
    second.write_bytes(b"d")
    assert fingerprint(first, second) != fingerprint(b"ab", b"c")
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "3")


OWNER = """
import sys
from pathlib import Path
from sharpmask.files import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_an_owned_folder_is_no_one_elses(tmp_path):
    """Also not another process's, until that ends, even by a kill."""
    folder = tmp_path / "deep" / "out"
    for end in ("close", "kill"):
        with subprocess.Popen(
            [sys.executable, "-c", OWNER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"mine\n"
            message = "out: another run is writing there; wait for it, or give another --output"
            with pytest.raises(ValueError, match=message), owned(folder):
                pass
            process.kill() if end == "kill" else process.stdin.close()
        with owned(folder):
            pass


def test_an_owner_meets_itself(tmp_path):
    with owned(tmp_path), pytest.raises(ValueError, match="another run"), owned(tmp_path):
        pass


@pytest.mark.parametrize("path", ["file/a", "file"])
def test_a_file_in_place_of_the_folder_is_named(tmp_path, path):
    (tmp_path / "file").write_bytes(b"a photo")
    with pytest.raises(ValueError, match=f"{path}: a file is in the way"), owned(tmp_path / path):
        pass
    assert (tmp_path / "file").read_bytes() == b"a photo"


READ_ONLY = """
import os, sys
from pathlib import Path
from sharpmask.files import owned, replacing_file
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)  # the superuser may write anywhere
for attempt in (lambda: owned(Path()), lambda: replacing_file(Path("a"))):
    try:
        with attempt():
            print("written")
    except OSError as error:
        print(type(error).__name__)
"""


def test_a_read_only_folder_is_an_os_error(tmp_path):
    write(tmp_path / "a", b"old")
    tmp_path.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, tmp_path], capture_output=True, text=True
        )
    finally:
        tmp_path.chmod(0o755)
    assert done.stdout.split() == ["PermissionError"] * 2, done.stderr
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder where nobody may write")
def test_a_file_that_cannot_be_written_is_named_as_it_was_given():
    path = Path("/proc/self/a.json")
    with pytest.raises(OSError) as raised:  # noqa: PT011  # which one, the system decides
        write(path, b"new")
    assert raised.value.filename == str(path)


def test_paths_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a"), b"1")
    with owned(Path()):
        write_json(Path("b.json"), [])
    assert names(tmp_path) == [LOCK, "a", "b.json"]
    assert os.fspath(Path("a")) == "a"
