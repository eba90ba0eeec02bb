import json

import pytest
from typer.testing import CliRunner

from reference.thin_models import pyramid_file
from sharpmask.cli.finetune import app
from synthetic_cells import write_cells

SMALL = [
    "--set", "steps=1", "--set", "batch_size=1", "--set", "scene_size=64", "--workers", "0",
    "--minutes", ".05", "--precision", "32-true",
]  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    write_cells(folder, name="train.json", photos=3, seed=1, size=(48, 64), count=5, sides=(12, 16))
    return folder


def finetune(cells, output, *options):
    arguments = [cells / "train.json", "--images", cells / "images", "--output", output]
    arguments += ["--from", pyramid_file(cells), *SMALL, *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_table_shows_before_and_after(cells, tmp_path):
    result = finetune(cells, tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "1 photos held back" in lines[0]
    for name in ("before, at its own sizes", "before, at the sizes of the data", "after"):
        assert any(name in line for line in lines)
    assert "as a proposal finds one object: @10 100, @100 100" in " ".join(lines)
    files = f"{tmp_path / 'run' / 'model.safetensors'} {tmp_path / 'run' / 'before_after.png'}"
    assert lines[-1] == files
    assert "photos are read at 2,1 octaves" in result.stderr
    assert "1 steps of " in result.stderr
    # A second time there is nothing to do.
    again = finetune(cells, tmp_path / "run")
    assert again.exit_code == 0
    assert again.stdout == result.stdout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--scales", "huge"], "scales: expected one of default, fast, zoom, zoom2, or octaves"),
        (["--minutes", "0"], "minutes: expected more than 0"),
        (["--set", "stepps=3"], "did you mean 'steps'?"),
        (["--from", "sharpmask-nano"], "only models on a feature pyramid are tuned"),
        (["--val", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cells, tmp_path, options, problem):
    result = finetune(cells, tmp_path / "run", *options)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_a_file_without_objects_is_refused(cells, tmp_path):
    content = json.loads((cells / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(content | {"annotations": []}))
    (tmp_path / "images").symlink_to(cells / "images")
    (tmp_path / "pyramid.safetensors").symlink_to(cells / "pyramid.safetensors")
    result = finetune(tmp_path, tmp_path / "run")
    assert result.exit_code == 2
    assert "no photo has objects and sound labels" in result.stderr
    (tmp_path / "train.json").write_text("[]")
    assert "expected a COCO annotation file" in finetune(tmp_path, tmp_path / "run").stderr
