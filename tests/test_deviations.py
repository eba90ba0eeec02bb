"""The departures marked in the code are those the docs explain."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_keys_in_code_and_docs_are_the_same():
    files = (ROOT / "src").rglob("*.py")
    in_code = {key for f in files for key in re.findall(r"# Deviation: ([\w-]+)", f.read_text())}
    page = (ROOT / "docs" / "deviations.md").read_text()
    in_docs = set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE))
    assert in_code == in_docs
    assert in_code
