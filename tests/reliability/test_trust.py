"""Files from strangers, and what the package itself is made of."""

import ast
import email
import importlib.metadata
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

import sharpmask
from sharpmask.detection.files import load_head
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.pretrained import load_backbone
from sharpmask.torch7.format import read_torch7

pytestmark = pytest.mark.reliability
SOURCE = Path(sharpmask.__file__).parent


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_files(folder):
    """Name -> content of files that want to be executed, or lie about themselves."""
    canary = folder / "canary"
    pickled = pickle.dumps({"a": Canary(canary)})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")

    def tensors(header, data=b"", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def entry(shape, offsets, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    return {
        "pickle.pth": pickled,
        "pickle.safetensors": pickled,
        "pickle.t7": pickled,
        "zip.pth": archive.getvalue(),
        "zip.safetensors": archive.getvalue(),
        "empty.safetensors": b"",
        "short.safetensors": b"\x05",
        "endless.safetensors": tensors({}, length=2**63),
        "longer-than-the-file.safetensors": tensors({"a": entry([10**12], [0, 4 * 10**12])}),
        "overlapping.safetensors": tensors(
            {"a": entry([1], [0, 4]), "b": entry([1], [2, 6])}, bytes(6)
        ),
        "wrong-size.safetensors": tensors({"a": entry([3], [0, 4])}, bytes(4)),
        "negative.safetensors": tensors({"a": entry([-1], [0, 4])}, bytes(4)),
        "unknown-type.safetensors": tensors({"a": entry([1], [0, 4], "OBJ")}, bytes(4)),
        "no-json.safetensors": tensors(b"{]"),
        "deep.safetensors": tensors(b"[" * 100_000),
        "endless.t7": struct.pack("<iii", 4, 1, 3) + struct.pack("<i", 2**31 - 1),
        "function.t7": struct.pack("<iii", 6, 1, 4) + b"\x1bLua",
        "tensor.t7": struct.pack("<ii", 4, 1) + struct.pack("<i", 3) + b"V 1" + bytes(40),
    }


def test_nothing_is_executed_and_everything_refused(tmp_path, note):
    files = hostile_files(tmp_path)
    refused = 0
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        readers = {
            ".t7": [read_torch7],
            ".pth": [lambda p: load_backbone(BACKBONES["resnet18"](), p), sharpmask.load],
            ".safetensors": [sharpmask.load, load_head],
        }[path.suffix]
        for read in readers:
            with pytest.raises(ValueError, match=re.escape(name)):
                read(path)
            refused += 1
    executed = (tmp_path / "canary").exists()
    note(f"hostile weights: refused of {len(files)} files, {refused} readings", refused, "all")
    note("hostile weights: anything executed", executed, "False")
    assert not executed
    pickle.loads((tmp_path / "pickle.pth").read_bytes())
    assert (tmp_path / "canary").exists()  # so would it have been


BANNED_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}


def violations(text):
    """Where a source file unpickles, evaluates, or loads what may execute code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
        found += [name for name in names if name in BANNED_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in {"eval", "exec", "compile", "__import__", "os.system"}:
                found.append(called)
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if given.get("shell") == "True" or given.get("allow_pickle") == "True":
                found.append(f"{called} with {given}")
            if called in {"yaml.load", "yaml.unsafe_load", "torch.hub.load"}:
                found.append(called)
    return found


def test_the_source_unpickles_and_evaluates_nothing(note):
    bad = {
        str(path.relative_to(SOURCE)): found
        for path in SOURCE.rglob("*.py")
        if (found := violations(path.read_text()))
    }
    note("source files that unpickle, evaluate or load unsafely", len(bad), "0")
    assert not bad
    assert violations("import pickle\ntorch.load(x)\neval('1')\nnp.load(f, allow_pickle=True)")


# --- what the package stands on ---

PERMISSIVE = re.compile(
    r"MIT(-0|-CMU)?|0BSD|BSD(-[23]-Clause)?|Apache[- ]2\.0( WITH LLVM-exception)?|ISC|PSF-2\.0|"
    r"HPND|Zlib|BSL-1\.0|CC0-1\.0|Unlicense|MPL-2\.0|"  # SPDX, and how some spell it
    r"(MIT|BSD|3-Clause BSD|Apache Software|ISC|Python Software Foundation) License( \(ISCL\))?|"
    r"Mozilla Public License 2\.0 \(MPL 2\.0\)"
)
"""MPL asks only that changes of its own files be shared: tqdm and certifi have it."""


def is_permissive(licence):
    """Whether one may choose, of an SPDX expression or the like, terms that all are."""
    return any(
        all(PERMISSIVE.fullmatch(part) for part in choice.split(" AND "))
        for choice in licence.split(" OR ")
    )


def requirements(name, seen):
    """The distributions that an installation with all extras brings.

    Without NVIDIA's own libraries, which PyTorch's build for NVIDIA GPUs adds.
    """
    if name in seen or name.startswith(("cuda-", "nvidia-")):
        return
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return  # for another platform
    seen[name] = distribution
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement or name == "sharpmask":
            required = re.match(r"[\w.-]+", requirement)[0]
            requirements(re.sub(r"[-_.]+", "-", required).lower(), seen)


def licence(data):
    """What metadata states: an expression, or else classifiers, or else a first line of text."""
    classifiers = [c for c in data.get_all("Classifier") or () if c.startswith("License ::")]
    named = " AND ".join(sorted(c.rpartition(" :: ")[2] for c in classifiers))
    first_line = (data.get("License") or "").strip().partition("\n")[0].strip()
    return data.get("License-Expression") or named or first_line or "none stated"


def test_licences_are_permissive(note):
    seen, names = {}, defaultdict(list)
    requirements("sharpmask", seen)
    for name, distribution in sorted(seen.items()):
        names[licence(distribution.metadata)].append(name)
    for text, having in names.items():
        note(f"licence {text}: {', '.join(having)}", len(having), "permissive")
    assert len(seen) > 20
    assert not {text: having for text, having in names.items() if not is_permissive(text)}


@pytest.mark.parametrize(
    ("stated", "permissive"),
    [
        ("License-Expression: MIT", True),
        ("License-Expression: BSD-3-Clause AND 0BSD AND Zlib", True),
        ("License-Expression: GPL-2.0-only OR Apache-2.0", True),
        ("License: MPL-2.0 AND MIT", True),
        ("License: MIT License\n  Copyright; without limitation", True),
        ("License: odd\nClassifier: License :: OSI Approved :: BSD License", True),
        ("License-Expression: MIT AND GPL-3.0-only", False),
        ("License-Expression: BUSL-1.1\nClassifier: License :: OSI Approved :: MIT License", False),
        ("License-Expression: Apache-2.0 WITH Commons-Clause", False),
        ("License: MIT\nClassifier: License :: Other/Proprietary License", False),
        ("License: AGPL-3.0, without limitation", False),
        ("License: Commercial licence, redistribution not permitted", False),
        ("License: GNU Lesser General Public License\n  MIT", False),
        ("License: Copyright of its authors, disclaimer of warranty", False),
        ("Name: silent", False),
    ],
)
def test_permissive_licences_are_told_from_others(stated, permissive):
    assert is_permissive(licence(email.message_from_string(stated))) is permissive


@pytest.mark.slow
def test_importing_is_quick_and_asks_no_network(size, note):
    program = """
import socket, sys, time
def refuse(*arguments, **options):
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
start = time.perf_counter()
import sharpmask
seconds = time.perf_counter() - start
assert "torch" not in sys.modules
engine = sharpmask.load_engine("sharpmask-nano", sys.argv[1])
proposals = sharpmask.Proposer(engine, num_proposals=5, scales=[-2])
photo = sharpmask.__path__[0] + "/assets/coffee.jpg"
print(seconds, len(proposals(photo)))
"""
    times = []
    for _ in range(size(3, 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, size("auto", "torch")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        seconds, count = done.stdout.split()
        assert count == "5"
        times.append(float(seconds))
    note("import sharpmask, s", f"{min(times):.2f}", "< 1.5")
    note("proposals without network", "found", "found")
