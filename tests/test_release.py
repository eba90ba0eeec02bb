"""What a release is checked for, and the papers that go with it."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from sharpmask.defaults import MODEL, VERSION

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)

CHANGELOG = "## [1.2.3] - 2026-11-27\n\nTag v1.2.3.\n"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"citation": "version: 1.2.4\n"}, ["CITATION.cff"]),
        ({"changelog": "## [Unreleased]\n"}, ["CHANGELOG.md", "CHANGELOG.md"]),
        ({"changelog": "## [1.2.3]\n\nTag v1.2.3.\n"}, ["CHANGELOG.md"]),
        ({"changelog": "## [1.2.3] - 2026-11-27\n"}, ["CHANGELOG.md"]),
        ({"defaults": 'VERSION = "1.2"\n'}, ["src/sharpmask/defaults.py"]),
    ],
    ids=str,
)
def test_release_needs_one_version_everywhere_and_a_date(changed, expected):
    texts = {
        "defaults": 'VERSION = "1.2.3"\n',
        "changelog": CHANGELOG,
        "citation": "version: 1.2.3\n",
    }
    found = release.problems(**texts | changed)
    assert [text.partition(":")[0] for text in found] == expected


def test_differing_builds_are_named(tmp_path):
    for name, files in {
        "a": {"x": b"1", "y": b"2"},
        "b": {"x": b"1", "y": b"3", "z": b"4"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    assert release.differences(tmp_path / "a", tmp_path / "b") == ["y", "z"]
    assert release.differences(tmp_path / "a", tmp_path / "a") == []


def test_citation_names_this_version():
    texts = [(ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff")]
    assert release.problems(f'VERSION = "{VERSION}"\n', *texts, unreleased=True) == []
    assert yaml.safe_load(texts[1])["license"] == "Apache-2.0"


def test_model_card_is_one_of_the_hub():
    card = ModelCard.load(ROOT / "docs" / "model-card.md")
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "mask-generation")
    assert card.data.library_name == "sharpmask"
    assert f"# Model card of {MODEL}\n" in card.text
    assert "failures.jpg" in card.text


def test_notice_names_the_origin_of_all_that_is_bundled_but_our_own_code():
    notice = (ROOT / "NOTICE").read_text()
    named = re.findall(r"(?:src/sharpmask|docs)/\S+", notice)
    package = ROOT / "src" / "sharpmask"
    own = {".py", ".js", ".html", ".css", ".svg", ".typed", ".md", ".pyc"}
    for path in package.rglob("*"):
        if path.is_file() and path.suffix not in own:
            name = path.relative_to(ROOT).as_posix()
            assert any(name.startswith(start) for start in named), name


def test_issue_forms_are_those_of_github():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= form.keys(), path.name
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids))
        assert all(part["attributes"]["label"] for part in form["body"])
