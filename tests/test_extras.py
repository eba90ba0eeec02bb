"""The small installation: what works without any extra, and what the rest says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sharpmask
from sharpmask.defaults import MODEL
from sharpmask.extras import EXTRAS, MissingExtraError, extras_for, how_to_get
from sharpmask.models.sources import resolve

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"


def without_extras(program, folder):
    """Run a program in a process where no package of an extra can be imported."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({[*EXTRAS]}))\n"
    if "onnxruntime" in EXTRAS:
        block += "del sys.modules['onnxruntime']\n"  # of the base; an extra brings it again
    return subprocess.run(
        [sys.executable, "-c", block + program], cwd=folder, capture_output=True, text=True
    )


COMMAND = """
from sharpmask.cli.main import app
app({arguments!r}, prog_name="sharpmask")
"""


def command(folder, *arguments):
    return without_extras(COMMAND.format(arguments=[str(a) for a in arguments]), folder)


def test_every_package_of_an_extra_is_one_that_pyproject_lists():
    project = Path(__file__).parents[1] / "pyproject.toml"
    extras = project.read_text().partition("[project.optional-dependencies]")[2]
    assert all(f"\n{extra} = [" in extras for extra in EXTRAS.values())


@pytest.mark.slow
def test_photo_without_extras_is_proposed_in_all_formats(tmp_path):
    formats = ["coco", "yolo", "labelme", "labelstudio", "masks", "cutouts"]
    options = [option for name in formats for option in ("--format", name)]
    done = command(tmp_path, "propose", COFFEE, "--scales=-1", "--output", "out", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 proposals for 1 of 1 photos")
    assert len(json.loads((tmp_path / "out" / "proposals.json").read_text())) == 100
    assert (tmp_path / "out" / "overlay.png").exists()


@pytest.fixture
def annotations(tmp_path, coco_folder):
    """An annotation file that can be measured on."""
    content = json.loads(coco_folder.val.read_text())
    for image in content["images"]:
        image.pop("complete", None)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow  # a process
def test_photo_without_extras_is_detected_in(tmp_path):
    done = command(tmp_path, "detect", COFFEE, "--output", "out", "--format", "coco")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found
    assert (tmp_path / "out" / "overlay.png").exists()
    assert json.loads((tmp_path / "out" / "coco.json").read_text())["categories"][0]["name"]


@pytest.mark.slow  # as the two tests that follow: a process each
def test_python_without_extras_reads_tiles_and_measures(tmp_path, coco_folder, annotations):
    program = f"""
import sharpmask
from pathlib import Path
proposer = sharpmask.Proposer(scales=[-1], num_proposals=20, num_candidates=20)
assert proposer.engine.name == "onnx"
assert len(sharpmask.TiledProposer(proposer)({str(COFFEE)!r})) > 0
found = sharpmask.evaluate(
    Path({str(annotations)!r}), images=Path({str(coco_folder.images)!r}), proposer=proposer
)
print(found.images)
"""
    done = without_extras(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\n"


@pytest.mark.slow
def test_evaluate_without_matplotlib_has_no_plots_and_says_so(tmp_path, coco_folder, annotations):
    options = ["--annotations", annotations, "--images", coco_folder.images, "--output", "out"]
    done = command(tmp_path, "evaluate", *options, "--num-proposals", 10, "--scales=-1")
    assert done.returncode == 0, done.stderr
    assert "no plots: matplotlib is not installed; pip install 'sharpmask[plots]'" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["evaluation.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "deepmask"], "train: torch is not installed; pip install 'sharpmask[train]'"),
        (["export", "--output", "out"], "export: torch is not installed;"),
        (
            ["propose", COFFEE, "--weights", "sharpmask-nano"],
            "pip install 'sharpmask[train]",
        ),
        (["propose", COFFEE, "--engine", "torch"], "torch is not installed; pip install"),
        (["propose", COFFEE, "--engine", "openvino"], "pip install 'sharpmask[openvino]'"),
        (["propose", COFFEE, "--format", "parquet"], "parquet: pyarrow is not installed;"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)
def test_command_that_lacks_an_extra_says_in_one_line_which(tmp_path, arguments, told):
    done = command(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sharpmask: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not any((tmp_path / "proposals").glob("*.json"))


def test_repository_without_the_hub_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"someone/model: .*'sharpmask\[hub\]'"):
        resolve("someone/model")


def test_help_without_extras_names_what_commands_lack(tmp_path):
    done = command(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "torch is not installed; pip install 'sharpmask[train]'" in text
    assert "Find objects in photos" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SharpMask", "load", "train_pyramid"])
def test_public_name_that_lacks_an_extra_says_which(tmp_path, name):
    done = without_extras(f"import sharpmask\nsharpmask.{name}", tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"sharpmask.extras.MissingExtraError: sharpmask.{name}: {how_to_get('torch')}"


def test_what_is_imported_for_a_proposal_is_small():
    program = f"""
import sys, sharpmask
from sharpmask.cli.main import app
sharpmask.Proposer({MODEL!r}, engine="onnx")
print([name for name in {[*EXTRAS, "jaxtyping", "asyncio"]} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "['onnxruntime']\n", done.stderr


def test_other_missing_modules_are_not_hidden():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), extras_for("this"):
        import no_such_module  # noqa: F401
    with (
        pytest.raises(MissingExtraError, match=r"^this: torch is not installed"),
        extras_for("this"),
    ):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
