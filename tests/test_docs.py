"""Documents agree with the code and with the stored results."""

import re
import subprocess
import sys
from pathlib import Path

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


def test_tables_are_those_of_the_stored_results():
    pages = ["README.md", *map(str, sorted((ROOT / "docs").glob("*.md")))]
    command = [sys.executable, "-m", "cogapp", "--check", *pages]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
