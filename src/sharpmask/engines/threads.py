"""How many processor cores there are, who may use how many, and who may start an engine."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from threading import RLock

starting = RLock()
"""Held from the start of an engine to its first answer, and while a model is exported.

OpenVINO's and ONNX Runtime's Python bindings set up tables of their own in the first call. Of two
threads in their first call one may hold Python's lock and wait for the table, while the other
makes the table and waits for Python's lock: both wait for ever. After a first answer nothing is
left to set up, so an engine gives that answer before anybody else can call it.
"""
_assigned: float = math.inf
"""Cores that ``at_most`` leaves this process."""


def cores(root: Path = Path("/")) -> int:
    """Processor cores that this process may use, by its affinity and its container's CPU quota.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.
    """
    return max(1, math.ceil(min(visible_cores(), _quota(root), _assigned)))


@contextmanager
def at_most(count: float) -> Iterator[None]:
    """Engines that start in this block use no more cores: a scheduler has given the others away."""
    global _assigned
    before, _assigned = _assigned, count
    try:
        yield
    finally:
        _assigned = before


def visible_cores() -> int:
    """Cores that this process may run on, whatever its quota; engines start as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def shared_by(streams: int) -> Iterator[None]:
    """Threads that call torch in this block share the cores between ``streams`` of them.

    Whoever starts the threads enters the block before; afterwards torch has as many threads as
    before. OpenVINO and ONNX Runtime divide the cores when they start (``streams`` of
    ``load_engine``).
    """
    torch = sys.modules.get("torch")  # who has not loaded it does not call it
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, cores()) // streams))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quota(root: Path) -> float:
    """Cores that the control groups (cgroup v1 or v2) of this process allow; infinity for all.

    A group's limit holds for the groups below it too, so all of them up to the mount are read.
    """
    limits = [math.inf]
    with suppress(OSError, ValueError):  # not Linux, or a table of another form
        groups = {}
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):  # "" stands for version 2
                groups[controller] = PurePosixPath(path)
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            fields, _, described = line.partition(" - ")
            kind, _, options = described.split(" ", 2)
            if kind == "cgroup2":
                controller = ""
            elif kind == "cgroup" and "cpu" in options.split(","):
                controller = "cpu"
            else:
                continue
            if controller not in groups:
                continue
            mounted, mount = (PurePosixPath(field) for field in fields.split(" ")[3:5])
            group = groups[controller]
            # In a container the mount often shows the container's group as its root.
            inside = group.relative_to(mounted) if group.is_relative_to(mounted) else "."
            top = root / mount.relative_to("/")
            folder = top / inside
            for level in (folder, *folder.parents):
                if not level.is_relative_to(top):
                    break
                limits.append(_limit(level))
    return min(limits)


def _limit(folder: Path) -> float:
    """Cores that one control group allows by itself."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        if quota != "max" and int(quota) > 0:
            return int(quota) / int(period)
    return math.inf
