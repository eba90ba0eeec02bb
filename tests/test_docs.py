"""Documents agree with the code and with the stored results."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cogapp import Cog

import sharpmask

ROOT = Path(__file__).parents[1]


def test_reference_lists_the_public_names():
    page = (ROOT / "docs" / "reference.md").read_text().partition("## Commands")[0]
    listed = {
        name
        for row in re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    }
    assert listed == set(sharpmask.__all__)
    assert all(hasattr(sharpmask, name) for name in sharpmask.__all__)


def test_tables_are_those_of_the_stored_results(monkeypatch, capsys):
    pages = ["README.md", *map(str, sorted((ROOT / "docs").glob("*.md")))]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])  # README adds docs
    ended = Cog().main(["cog", "--check", *pages])
    assert ended == 0, capsys.readouterr()


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow  # exports the default model
def test_the_python_of_the_readme_runs_as_it_stands(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) == 1
    coffee = ROOT / "src" / "sharpmask" / "assets" / "coffee.jpg"
    for name in ("photo.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(coffee.read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    program = (
        blocks[0] + "print(good)\nassert len(proposals) == 100 and best.mask.shape == (400, 600)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *_, first, second, third = ran.stdout.splitlines()
    assert first.startswith("a.jpg <Proposals: 100 masks")
    assert second.startswith("b.jpg b.jpg: ")
    assert third.startswith("<Proposals: ")
