"""Documents agree with the code and with the stored results; what they show runs."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cogapp import Cog
from PIL import Image
from typer.main import get_command

import sharpmask
from doc_blocks import PAGES, ROOT, blocks, commands
from sharpmask.cli.main import app
from synthetic_coco import write_coco

FOREIGN = {
    "python3", ".", "cp", "curl", "jq", "docker", "cvat-cli", "git",
    "export", "label-studio", "xanylabeling",
}  # fmt: skip
"""Programs of others: only their names are looked at."""
NOT_RUN = {
    "serve": "runs until it is stopped; tests/serve",
    "page": "fetches ONNX Runtime from npm; tests/serve",
    "train": "takes long; tests/training, tests/cli",
    "finetune": "takes twenty minutes; tests/training/test_finetune.py",
    "batch": "starts Ray; tests/integrations/test_cluster_recipes.py",
    "convert": "needs FAIR's files; tests/torch7",
    "detect": "needs a trained detector; tests/detection",
    "export": "takes a minute; tests/engines/test_engines.py",
    "compress": "needs a model with long vectors; tests/compress/test_vectors.py",
}
"""Commands whose examples are parsed only, and why."""
PAGES_NOT_RUN = {
    "docs/detection.md": "needs a trained detector; tests/detection",
    "docs/batch.md": "needs Ray; tests/integrations/test_cluster_recipes.py runs it",
    "CONTRIBUTING.md": "runs below, without a process of its own",
}
"""Pages that are read only, and why."""
GENERATED = re.compile(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->", re.DOTALL)
"""What a program copied into a page."""
HOLDS = {
    "README.md": "len(proposals) == 100 and best.mask.shape == (400, 600) and 0 < len(good) < 100",
    "docs/tutorial.md": (
        "cup.mask[150, 240] and spoon.area > 2000 and len(content['annotations']) == 2"
    ),
}
"""What must hold after a page's Python."""


def test_python_page_lists_the_public_names():
    page = (ROOT / "docs" / "api.md").read_text()
    assert {*re.findall(r"^::: sharpmask\.(\w+)$", page, re.MULTILINE)} == {*sharpmask.__all__}
    assert all(hasattr(sharpmask, name) for name in sharpmask.__all__)


def test_tables_are_those_of_the_stored_results(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])  # README adds docs
    ended = Cog().main(["cog", "--check", *PAGES])
    assert ended == 0, capsys.readouterr()


def test_links_lead_somewhere():
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{name}: {target}"


def test_reasons_not_to_run_name_tests_that_exist():
    marked = [block.not_run for page in PAGES.values() for block in blocks(page)]
    for reason in (*NOT_RUN.values(), *PAGES_NOT_RUN.values(), *marked):
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", reason):
            assert (ROOT / path).exists(), reason


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 120
    assert max(map(len, lines)) <= 100


def test_lines_of_pages_can_be_read():
    for name, page in PAGES.items():
        for line in GENERATED.sub("", page.read_text()).splitlines():
            assert len(line) <= 100 or line.startswith("|"), f"{name}: {line}"


def test_every_page_is_in_the_site():
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_a_page_are_understood(name):
    program = get_command(app)
    for block in blocks(PAGES[name]):
        for words in commands(block):
            where = f"{name}, line {block.line}: {' '.join(words)}"
            if words[0] == "sharpmask":
                assert parsed(program, words[1:]) is None, where
            elif words[0] == "make":
                makefile = (ROOT / "Makefile").read_text()
                for goal in words[1:]:
                    variable, equals, _ = goal.partition("=")
                    defined = rf"^{variable} \?=" if equals else rf"^{goal}:"
                    assert re.search(defined, makefile, re.M), where
            elif words[0] in ("pip", "uvx"):
                assert extras(words) <= known_extras(), where
            elif words[0] == "python":
                assert known_program(words[1:]), where
            else:
                assert words[0] in FOREIGN or block.not_run, where


def parsed(program, words):
    """What is wrong with the words of a command, if anything."""
    command = program
    while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
        name, *words = words
        command = command.get_command(None, name)
        if command is None:
            return f"no command {name}"
    if hasattr(command, "list_commands"):  # sharpmask --version
        return None if words in (["--version"], ["--install-completion"]) else f"{words}?"
    try:
        command.make_context(command.name, list(words))
    except Exception as error:  # typer's own kind, which its versions name differently
        message = getattr(error, "message", None) or repr(error)
        return None if "does not exist" in message else message
    return None


def extras(words):
    return {
        extra
        for word in words
        if (listed := re.search(r"^(?:sharpmask|\.)\[(.+)\]$", word))
        for extra in listed[1].split(",")
    }


def known_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {*project["project"]["optional-dependencies"]}


def known_program(words):
    """Whether a program of ours exists and knows the options; one of Python's own always does."""
    if words[0] in ("-m", "-c"):
        return True
    path = ROOT / words[0]
    options = [word for word in words if word.startswith("--")]
    return path.exists() and all(f'"{option}"' in path.read_text() for option in options)


@pytest.mark.parametrize("name", PAGES)
def test_python_of_a_page_names_what_exists(name):
    for block in blocks(PAGES[name]):
        if block.language != "python":
            continue
        where = f"{name}, line {block.line}"
        for node in ast.walk(ast.parse(block.text)):
            match node:
                case ast.Attribute(value=ast.Name(id="sharpmask"), attr=attribute):
                    assert attribute in (*sharpmask.__all__, "__file__"), f"{where}: {attribute}"
                case ast.ImportFrom(module=str(module)) if module.startswith("sharpmask."):
                    found = importlib.util.find_spec(module)
                    assert found, f"{where}: {module}"
                    source = ast.parse(Path(found.origin).read_text()).body
                    defined = {getattr(item, "name", None) for item in source}
                    defined |= {
                        getattr(target, "id", None)
                        for item in source
                        if isinstance(item, ast.Assign)
                        for target in item.targets
                    }
                    assert {alias.name for alias in node.names} <= defined, where


def test_examples_of_contributing_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(PAGES["CONTRIBUTING.md"]):
        if block.language == "python":
            exec(compile(block.text, f"CONTRIBUTING.md, line {block.line}", "exec"), names)
    assert (names["masks"].shape, names["scores"].shape) == ((2, 56, 56), (2,))
    assert (tmp_path / "out/areas/photo.txt").read_text() == "3\n"
    assert names["best"].box.tolist() == [100, 60, 180, 120]


# --- slow: they run ---

RUNS_PYTHON = [
    name
    for name, page in PAGES.items()
    if name not in PAGES_NOT_RUN
    and any(block.language == "python" and not block.not_run for block in blocks(page))
]
RUNS_COMMANDS = [
    name
    for name, page in PAGES.items()
    if name not in PAGES_NOT_RUN
    and any(
        words[0] == "sharpmask" and words[1] not in NOT_RUN and not block.not_run
        for block in blocks(page)
        for words in commands(block)
    )
]


@pytest.fixture
def desk(tmp_path):
    """A folder with everything that the pages name."""
    coffee = ROOT / "src" / "sharpmask" / "assets" / "coffee.jpg"
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(coffee.read_bytes())
    photo = Image.open(coffee)
    photo.resize((150, 100)).save(tmp_path / "photo.png")
    photo.resize((660, 440)).save(tmp_path / "aerial.png")  # two parts
    for name in ("val", "train", "labels"):
        annotations = write_coco(tmp_path, name=f"{name}.json", photos=2, seed=4)
        text = annotations.read_text().replace('"complete": false', '"complete": true')
        annotations.write_text(text)
    for name in ("photos", "new"):
        (tmp_path / name).symlink_to("images")
    weights = ROOT / "src" / "sharpmask" / "weights"
    papers = weights / "sharpmask-nano.safetensors"
    (tmp_path / "runs" / "sharpmask").mkdir(parents=True)
    (tmp_path / "runs" / "sharpmask" / "model.safetensors").symlink_to(papers)
    (tmp_path / "runs" / "cells").symlink_to(weights / "sharpmask-pyramid-nano")
    (tmp_path / "sharpmask-fair.safetensors").symlink_to(papers)
    return tmp_path


def run(desk, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(
        [sys.executable, *words], cwd=desk, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{words}: {ran.stderr}"


@pytest.mark.slow  # loads models
@pytest.mark.parametrize("name", RUNS_PYTHON)
def test_python_of_a_page_runs(name, desk):
    run_commands(name, desk)
    program = "\n".join(
        block.text
        for block in blocks(PAGES[name])
        if block.language == "python" and not block.not_run
    )
    run(desk, "-c", f"{program}\nassert {HOLDS.get(name, True)}")


@pytest.mark.slow  # loads models
@pytest.mark.parametrize("name", [name for name in RUNS_COMMANDS if name not in RUNS_PYTHON])
def test_commands_of_a_page_run(name, desk):
    run_commands(name, desk)


def run_commands(name, desk):
    """Run what a page tells to, in order."""
    for block in blocks(PAGES[name]):
        for words in [] if block.not_run else commands(block):
            if words[0] == "sharpmask" and words[1] not in NOT_RUN:
                run(desk, "-m", *words)
