"""Long measurements at two sizes: small ones in every test run, full ones by ``make reliability``.

Each test notes what it measured beside its target; full runs end with one table of them.
"""

import os

import pytest

FULL = bool(os.environ.get("RELIABILITY"))


@pytest.fixture
def size():
    """How many of something: the first number in a full run, the second in every test run."""
    return lambda full, small: full if FULL else small


@pytest.fixture
def note(record_property):
    """Note a figure: what it is, what was measured, what is wanted."""
    return lambda what, measured, target: record_property("figure", (what, str(measured), target))


def pytest_terminal_summary(terminalreporter):
    rows = [
        (*value, "met" if outcome == "passed" else "MISSED")
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", ())
        if name == "figure" and report.when == "call"
    ]
    if rows and FULL:
        terminalreporter.section("reliability")
        header = ("what", "measured", "target", "")
        widths = [max(len(row[k]) for row in (header, *rows)) for k in range(4)]
        for row in (header, *sorted(rows)):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())
