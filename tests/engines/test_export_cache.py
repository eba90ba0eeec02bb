"""Exported forms that are kept: by content, whole, bounded, for several processes at once."""

import os
import pwd
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reference.thin_models import thin_export, thin_file, thinnest
from sharpmask import files
from sharpmask.engines import export_cache
from sharpmask.engines.load import load_engine
from sharpmask.files import LOCK, cache_folder, prune
from sharpmask.models.pretrained import save
from sharpmask.models.sources import DESCRIPTION

IMAGE = np.random.default_rng(0).integers(0, 256, (176, 192, 3), np.uint8)


def scores(engine):
    return engine.encode(IMAGE)[0][0]


@pytest.fixture
def own_cache(tmp_path, cache, monkeypatch):
    """A cache of this test's own, and the exports made: copies, as they take a moment only."""
    ready, made = thin_export(cache), []

    def export(weights, folder, runtime):
        assert (weights.read_bytes(), runtime) == (thin_file(cache).read_bytes(), "openvino")
        made.append(folder)
        shutil.copytree(ready, folder, dirs_exist_ok=True, ignore=lambda *_: [export_cache.SEAL])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(export_cache, "_export", export)
    return tmp_path / "cache" / "sharpmask" / "exported", made


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.name != LOCK)


def test_export_is_kept_until_weights_code_or_versions_change(
    own_cache, cache, tmp_path, monkeypatch
):
    folder, made = own_cache
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(thin_file(cache).read_bytes())
    first = scores(load_engine(weights, "openvino"))
    again = tmp_path / "another name.safetensors"
    again.write_bytes(weights.read_bytes())
    np.testing.assert_array_equal(scores(load_engine(again, "openvino")), first)
    assert len(made) == len(entries(folder)) == 1

    keys = {export_cache._key(weights, runtime) for runtime in ("openvino", "onnx")}
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: "0.0")
        keys.add(export_cache._key(weights, "openvino"))
    code = Path(export_cache.__file__).with_name("export.py")
    fingerprint = files.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(
            export_cache,
            "fingerprint",
            lambda *parts: fingerprint(*(b"new" if part == code else part for part in parts)),
        )
        keys.add(export_cache._key(weights, "openvino"))
    save(thinnest("b"), weights)
    keys.add(export_cache._key(weights, "openvino"))
    assert len(keys) == 5


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40  # loads without a word, and computes something else
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [flip, *(pytest.param(harm, marks=pytest.mark.slow) for harm in (cut, Path.unlink))],
    ids=lambda harm: harm.__name__,
)
def test_damaged_export_is_made_anew(own_cache, cache, harm):
    folder, made = own_cache
    expected = scores(load_engine(thin_file(cache), "openvino"))
    (entry,) = entries(folder)
    harm(entry / "encoder.bin")
    np.testing.assert_array_equal(scores(load_engine(thin_file(cache), "openvino")), expected)
    assert len(made) == 2
    load_engine(thin_file(cache), "openvino")
    assert len(made) == 2
    assert entries(folder) == [entry]


def test_two_threads_at_once_export_once(own_cache, cache):
    folder, made = own_cache
    with ThreadPoolExecutor(2) as threads:
        engines = [*threads.map(lambda _: load_engine(thin_file(cache), "openvino"), range(2))]
    assert [engine.name for engine in engines] == ["openvino"] * 2
    assert len(made) == len(entries(folder)) == 1


@pytest.mark.slow
def test_two_processes_at_once_export_once(tmp_path, cache):
    program = f"""
from pathlib import Path
from sharpmask.engines import export_cache
from sharpmask.engines.load import load_engine
export = export_cache._export
export_cache._export = lambda *a: (print("exported"), export(*a))
print(load_engine(Path({str(thin_file(cache))!r}), "openvino").name)
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300)[0].split() for process in processes]
    assert sorted(told) == [["exported", "openvino"], ["openvino"]]
    (entry,) = entries(tmp_path / "sharpmask" / "exported")
    assert (entry / DESCRIPTION).is_file()


@pytest.mark.slow
def test_cache_over_its_size_loses_what_was_not_used_for_longest(own_cache, cache, monkeypatch):
    folder, made = own_cache
    monkeypatch.setattr(export_cache, "MAX_BYTES", 1)
    for name, hours in (("old", 30), ("older", 50)):
        (folder / name).mkdir(parents=True)
        (folder / name / "encoder.bin").write_bytes(bytes(100))
        used = time.time() - 3600 * hours
        os.utime(folder / name, (used, used))
    load_engine(thin_file(cache), "openvino")
    (entry,) = entries(folder)
    assert entry.name.startswith("openvino-")
    used = time.time() - 7200
    os.utime(entry, (used, used))
    load_engine(thin_file(cache), "openvino")
    assert entry.stat().st_mtime > used + 3600  # using it counts
    assert len(made) == 1


@pytest.mark.parametrize(
    ("max_bytes", "left"),
    [(1000, "abcd"), (400, "abcd"), (399, "bcd"), (200, "cd"), (100, "d"), (0, "d")],
)
def test_prune_removes_the_least_recently_used_first(tmp_path, max_bytes, left):
    for hours, name in ((5, "a"), (4, "b"), (3, "c"), (0, "d")):
        path = tmp_path / name
        if name == "b":  # an entry may be a file
            path.write_bytes(bytes(100))
        else:
            (path / "deep").mkdir(parents=True)
            (path / "deep" / "file").write_bytes(bytes(100))
        used = time.time() - 3600 * hours
        os.utime(path, (used, used))
    prune(tmp_path, max_bytes)
    assert "".join(sorted(path.name for path in tmp_path.iterdir())) == left


def test_prune_leaves_the_lock(tmp_path):
    (tmp_path / LOCK).write_bytes(bytes(10))
    os.utime(tmp_path / LOCK, (0, 0))
    prune(tmp_path, 0)
    assert (tmp_path / LOCK).exists()


# --- where nothing can be kept ---


def test_cache_folder_without_home_or_passwd_entry_goes_with_the_process(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError):
        Path("~").expanduser()
    folder = cache_folder()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0  # nobody else can put a model there
    assert cache_folder() == folder
    program = """
import pwd, os
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
for name in ("HOME", "XDG_CACHE_HOME"): os.environ.pop(name, None)
from sharpmask.files import cache_folder
print(cache_folder())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["no room", "a file in its place"])
def test_engine_comes_where_nothing_can_be_kept(tmp_path, monkeypatch, cache, what):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if what == "no room":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(export_cache, "replacing_folder", full)
    else:
        (tmp_path / "sharpmask").write_text("not a folder")
    engine = load_engine(thin_file(cache), "openvino")
    expected = scores(load_engine(thin_file(cache), "torch"))
    np.testing.assert_allclose(scores(engine), expected, atol=1e-3)
