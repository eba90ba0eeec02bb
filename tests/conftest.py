"""Settings of the whole test session; pytest also puts this folder on the import path."""

import os
import signal
from collections import Counter

import pytest
from hypothesis import settings

from synthetic_coco import CocoFolder, write_coco

# Examples are the same in every run, and a busy machine is not a failure.
settings.register_profile("sharpmask", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("sharpmask")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Workers share the cores; and whoever only hands out tests need not import torch."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """As in a terminal, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of this test run's own, for all its workers and the processes they start."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory):
    """Photos and annotation files of ``synthetic_coco``; not to be written to."""
    folder = tmp_path_factory.mktemp("coco")
    train = write_coco(folder, name="train.json", photos=9, seed=1)
    val = write_coco(folder, name="val.json", photos=4, seed=2)
    return CocoFolder(train=train, val=val, images=folder / "images")


# --- `make reliability`: the tests marked so, at full size, and one table of what they found ---

FULL = bool(os.environ.get("RELIABILITY"))


@pytest.fixture
def size():
    """How many of something: the first number in a full run, the second in every test run."""
    return lambda full, small: full if FULL else small


@pytest.fixture
def note(record_property):
    """Note a figure: what it is, what was measured, what is wanted."""
    return lambda what, measured, target: record_property("figure", (what, str(measured), target))


@pytest.fixture(autouse=True)
def noted_by_its_mark(request, record_property):
    """A test whose mark says what it shows counts for that: it held or not."""
    mark = request.node.get_closest_marker("reliability")
    if mark and mark.args:
        record_property("held", mark.args[0])


def pytest_terminal_summary(terminalreporter):
    if not FULL:
        return
    rows = []
    held, all_of = Counter(), Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if getattr(report, "when", None) != "call":
                continue
            for name, value in report.user_properties:
                if name == "figure":
                    rows.append((*value, "met" if outcome == "passed" else "MISSED"))
                elif name == "held":
                    held[value] += outcome == "passed"
                    all_of[value] += 1
    for what, count in all_of.items():
        met = "met" if held[what] == count else "MISSED"
        rows.append((what, f"{held[what]} of {count}", "all", met))
    terminalreporter.section("reliability")
    header = ("what", "measured", "target", "")
    # A list of names may stand out.
    widths = [min(75, max(len(row[k]) for row in (header, *rows))) for k in range(4)]
    for row in (header, *sorted(rows)):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
