"""The fenced blocks of a page, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Of the page, from 1.
        language: After the fence; commands have none.
        text: Without the fences and their indentation.
        not_run: Why it is not run, as the comment before it says; empty if it is.
    """

    line: int
    language: str
    text: str
    not_run: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found, lines = [], page.read_text().split("\n")
    start, before = None, ""
    for number, line in enumerate(lines):
        fence = re.match(r"( *)```(\w*)$", line)
        if start is None and fence:
            start, indent, language = number, len(fence[1]), fence[2]
        elif start is not None and line.strip() == "```":
            text = "\n".join(text[indent:] for text in lines[start + 1 : number])
            reason = re.fullmatch(r"\s*<!-- not run: (.+) -->", before)
            found.append(Block(start + 1, language, text, reason[1] if reason else ""))
            start = None
        if start is None and line.strip():
            before = line
    assert start is None, f"{page.name}, line {start}: a fence without an end"
    return found


def commands(block: Block) -> list[list[str]]:
    """Words of each command of a block without language; parts of a pipe are commands each."""
    if block.language:
        return []
    lines = block.text.replace("\\\n", " ").split("\n")
    found = []
    for line in lines:
        words: list[str] = []
        for word in shlex.split(line.partition(" > ")[0], comments=True):
            if word == "|":
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]
