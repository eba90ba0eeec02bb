import errno
import io
import os
import signal
import sys

import pytest
import typer
from typer.testing import CliRunner

from sharpmask.cli import console
from sharpmask.cli.console import clear_errors, complain, progress_lines
from sharpmask.cli.main import app


class Refusing(io.StringIO):
    """A stream that refuses what is written to it, as a full disk or a closed pipe does."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(autouse=True)
def consoles(monkeypatch):
    monkeypatch.setattr(console.out, "_file", None)
    monkeypatch.setattr(console.err, "_file", None)


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (errno.ENOSPC, 1, "sharpmask: standard output cannot be written (No space left on device)"),
        (errno.EIO, 1, "sharpmask: standard output cannot be written (Input/output error)"),
        (errno.EPIPE, 0, ""),
    ],
)
def test_a_command_that_cannot_print_goes_on(monkeypatch, capsys, number, status, said):
    monkeypatch.setattr(sys, "stdout", Refusing(number))
    done = []
    try:
        with clear_errors():
            console.out.print("first")
            console.out.print("second")
            done.append("the work")
        ended = 0
    except typer.Exit as ending:
        ended = ending.exit_code
    assert (done, ended) == (["the work"], status)
    assert capsys.readouterr().err.strip() == said


def test_a_closed_standard_output_is_no_error(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    with clear_errors():
        console.out.print("nobody reads this")


def test_a_failure_to_complain_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Refusing(errno.ENOSPC))
    complain("nobody reads this")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("a.json: bad; mend it"), 2, "sharpmask: a.json: bad; mend it"),
        (OSError(28, "No space left on device", "x"), 2, "sharpmask: x: No space left on device"),
        (OSError(2, "No such file", "x"), 2, "sharpmask: x: no such file; check the name"),
        (OSError(28, "No space left on device"), 2, "sharpmask: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "sharpmask: interrupted"),
        (KeyboardInterrupt("saved"), 130, "sharpmask: saved"),
        (typer.Exit(7), 7, ""),
    ],
    ids=repr,
)
def test_errors_end_a_command_with_one_line_and_a_status(capsys, error, status, said):
    with pytest.raises(typer.Exit) as ending, clear_errors():
        raise error
    assert ending.value.exit_code == status
    written = capsys.readouterr().err
    assert written.startswith(said)
    assert written.count("\n") == bool(said)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_a_command_as_ctrl_c_does(capsys, number, status):
    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as ending, clear_errors():
        signal.raise_signal(number)
    assert ending.value.exit_code == status
    assert capsys.readouterr().err == f"sharpmask: ended by {number.name}\n"
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with clear_errors():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_progress_without_a_terminal_is_a_line_now_and_then():
    times = iter([0, *range(0, 1000, 10)])  # the start, and ten seconds for each item
    lines = []
    passed = progress_lines(
        "abcdefgh", 8, "photos", every_s=25, clock=lambda: next(times), report=lines.append
    )
    assert list(passed) == list("abcdefgh")
    assert lines == ["3 of 8 photos done, about 50 s left", "6 of 8 photos done, about 20 s left"]


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (60, "1.0 min"), (5400, "1.5 h")])
def test_durations_have_the_unit_that_says_them_best(seconds, text):
    assert console.duration(seconds) == text


def test_help_on_a_full_disk_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Refusing(errno.ENOSPC))
    with pytest.raises(SystemExit) as ending:
        app(["--help"])
    assert ending.value.code == 1
    assert "standard output cannot be written (No space left on device)" in capsys.readouterr().err


def test_names_of_any_script_can_be_printed_to_an_ascii_stream(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.prepare_streams()
    with clear_errors():
        console.out.print("写真.png", markup=False)
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u5199\\u771f.png\n"


def test_unknown_commands_are_refused():
    result = CliRunner().invoke(app, ["propse"])
    assert result.exit_code == 2
    assert "No such command 'propse'" in result.stderr
