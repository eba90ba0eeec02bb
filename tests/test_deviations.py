"""The departures marked in the code are those the docs explain."""

import inspect
import re
from pathlib import Path

from sharpmask.inference.proposer import Proposer
from sharpmask.training.recipes import RECIPES

ROOT = Path(__file__).parents[1]


def test_each_deviation_is_marked_in_the_file_that_the_docs_name():
    source = ROOT / "src" / "sharpmask"
    in_code = {
        (key, path.relative_to(source).as_posix())
        for path in source.rglob("*.py")
        for key in re.findall(r"# Deviation: ([\w-]+)", path.read_text())
    }
    page = (ROOT / "docs" / "deviations.md").read_text()
    in_docs = re.findall(r"^### `([\w-]+)`\n\nIn `([\w/.]+)`\.$", page, re.MULTILINE)
    assert sorted(in_docs) == sorted(in_code)
    assert len(in_docs) == len(re.findall(r"^### `", page, re.MULTILINE)) > 5


def test_every_recipe_and_option_that_the_docs_name_exists():
    page = (ROOT / "docs" / "deviations.md").read_text()
    assert "so do the recipes `deepmask` and `sharpmask`" in " ".join(page.lower().split())
    for name, make in RECIPES.items():
        from_scenes = name in ("deepmask", "sharpmask")
        assert (make().batches == "scenes") is from_scenes, name
    settings = re.search(r"`Proposer\(model, (.*?)\)`", page)[1]
    known = inspect.signature(Proposer).parameters
    assert {part.split("=")[0] for part in settings.split(", ")} <= known.keys()
