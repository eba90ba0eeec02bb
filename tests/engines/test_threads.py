"""Cores, quotas, and who may use how many; control groups as the kernel shows them."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
import torch

from reference.thin_models import thin_export, thin_file
from sharpmask.engines import threads
from sharpmask.engines.exported import ExportedEngine
from sharpmask.engines.load import load_engine
from sharpmask.engines.protocol import answer_once
from sharpmask.engines.threads import at_most, cores, shared_by
from sharpmask.inference.batch import map_ordered

MOUNT = "25 20 0:22 {root} {mount} rw,nosuid - {kind} {kind} {options}\n"
V2 = MOUNT.format(root="/", mount="/sys/fs/cgroup", kind="cgroup2", options="rw")
TMPFS = MOUNT.format(root="/", mount="/sys/fs/cgroup", kind="tmpfs", options="rw,mode=755")
V1_MEMORY = MOUNT.format(
    root="/", mount="/sys/fs/cgroup/memory", kind="cgroup", options="rw,memory"
)


def v1(root):
    mount = "/sys/fs/cgroup/cpu,cpuacct"
    return MOUNT.format(root=root, mount=mount, kind="cgroup", options="rw,cpu,cpuacct")


V1_GROUPS = "11:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n"
CASES = {
    "v2, a container that sees its own group as root": (
        "0::/\n", V2, {"cpu.max": "200000 100000\n"}, 2,
    ),
    "v2, a part of a core counts as one": ("0::/\n", V2, {"cpu.max": "250000 100000\n"}, 3),
    "v2, less than a core is one": ("0::/\n", V2, {"cpu.max": "5000 100000\n"}, 1),
    "v2, no limit": ("0::/\n", V2, {"cpu.max": "max 100000\n"}, 64),
    "v2, more than there is": ("0::/\n", V2, {"cpu.max": "9900000 100000\n"}, 64),
    "v2, the root of the host has no file": ("0::/\n", V2, {}, 64),
    "v2, a group below": (
        "0::/a.slice/b.scope\n", V2, {"a.slice/b.scope/cpu.max": "300000 100000\n"}, 3,
    ),
    "v2, the tightest of all above": (
        "0::/a/b/c\n", V2,
        {"a/cpu.max": "max 100", "a/b/cpu.max": "200000 50000", "a/b/c/cpu.max": "800 100"},
        4,
    ),
    "v1, a host's group": (
        V1_GROUPS, TMPFS + V1_MEMORY + v1("/"),
        {
            "cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "150000\n",
            "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "v1, a container whose mount starts at its group": (
        V1_GROUPS, TMPFS + V1_MEMORY + v1("/docker/ab"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
        1,
    ),
    "v1, no limit": (
        V1_GROUPS, TMPFS + v1("/"),
        {
            "cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
        },
        64,
    ),
    "both, the limit in version 1": (
        V1_GROUPS + "0::/init.scope\n",
        TMPFS + v1("/") + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
        {
            "cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "700000\n",
            "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
            "unified/init.scope/cgroup.procs": "1\n",
        },
        7,
    ),
    "a group outside of what is mounted": ("0::/../x\n", V2, {"cpu.max": "200000 100000"}, 2),
    "tables of another form": ("what\n", "ever\n", {"cpu.max": "200000 100000"}, 64),
    "a limit of another form": ("0::/\n", V2, {"cpu.max": "a lot\n"}, 64),
    "a period of zero": ("0::/\n", V2, {"cpu.max": "100 0\n"}, 64),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cores_with_a_quota_are_those_it_allows(tmp_path, monkeypatch, case):
    groups, mounts, limits, expected = CASES[case]
    monkeypatch.setattr(threads, "visible_cores", lambda: 64)
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text(mounts)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    for name, content in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cores(tmp_path) == expected


def test_cores_without_control_groups_are_those_in_sight(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "visible_cores", lambda: 5)
    assert cores(tmp_path) == 5


@pytest.fixture
def torch_threads(monkeypatch):
    """Eight cores, and torch with a thread for each."""
    monkeypatch.setattr(threads, "cores", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_shared_by_streams_divides_torchs_threads_and_restores_them(torch_threads):
    with shared_by(3):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch_threads).result() == 2
        with shared_by(2):
            assert torch_threads() == 1
        assert torch_threads() == 2
    assert torch_threads() == 8

    def fail():
        with shared_by(4):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch_threads() == 8


def test_shared_by_one_stream_keeps_to_the_quota(torch_threads, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 3)
    with shared_by(1):
        assert torch_threads() == 3
    assert torch_threads() == 8


def test_map_ordered_gives_each_stream_its_share(torch_threads):
    calls = map_ordered(lambda _: torch_threads(), range(6), 4)
    assert [call.result() for call in calls] == [2] * 6
    assert torch_threads() == 8


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_loading_an_engine_changes_no_threads(torch_threads, cache, kind):
    for _ in range(3):
        load_engine(thin_file(cache), kind, streams=4)
        assert torch_threads() == 8


@pytest.mark.slow
@pytest.mark.skipif(threads.visible_cores() < 2 or sys.platform != "linux", reason="one core")
def test_engine_that_has_some_of_the_cores_is_bound_to_none(cache):
    # Otherwise all processes of a machine compute on its first core.
    folder = thin_export(cache)
    others = set(Path("/proc/self/task").iterdir())  # of engines that other tests loaded
    with at_most(1):
        engine = ExportedEngine(folder)
    allowed = set()
    done = Event()

    def watch():
        while not done.is_set():
            for task in set(Path("/proc/self/task").iterdir()) - others:
                with suppress(OSError):
                    allowed.add(len(os.sched_getaffinity(int(task.name))))

    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch)
        for _ in range(30):
            answer_once(engine)
        done.set()
        watched.result()
    assert allowed == {threads.visible_cores()}
