"""The small installation, measured: the wheel alone in an empty environment.

What it weighs, and how long one photo takes from the start of the process to its end. Both are
compared with a limit. On a busy machine a process waits for a core: there the processor time may
pass instead, as a multiple of what Python takes to import numpy, measured in turn with it.

    python benchmarks/small_install.py DIST.whl
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

MAX_MB = 200
"""Of site-packages, without the bytecode that pip makes of modules nobody imports."""
MAX_START_S = 1.0
MAX_START_IMPORTS = 11.0
"""Processor time in imports of numpy: 0.1 s each on the machine that a second is allowed on."""
ROUNDS = 10
ABSENT = ("torch", "matplotlib", "tensorboard", "lightning_fabric", "sklearn", "openvino")
"""Packages that do not belong here."""


def main() -> None:
    """Install, measure, print, and end with status 1 if a limit is exceeded."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", symlinks=True)
        scripts = home / "venv" / "bin"
        python = scripts / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "--no-compile", sys.argv[1]], check=True)
        packages = next((home / "venv").rglob("site-packages"))
        megabytes = size(packages) / 1e6
        print(f"installed: {megabytes:.0f} MB, at most {MAX_MB}")
        there = [name for name in ABSENT if (packages / name).exists()]
        print(f"not wanted: {', '.join(there) or 'none'}")

        photo = packages / "sharpmask" / "assets" / "coffee.jpg"
        command = [str(scripts / "sharpmask"), "propose", str(photo), "--output", "found"]
        starts, imports = [], []
        for _ in range(ROUNDS):
            starts.append(seconds(command, home))
            imports.append(seconds([str(python), "-c", "import numpy"], home))
        assert (home / "found" / "proposals.json").stat().st_size
        assert (home / "found" / "overlay.png").stat().st_size
        start = min(wall for wall, _ in starts)
        work, unit = (min(processor for _, processor in times) for times in (starts, imports))
        ratio = work / unit
        print(f"one photo, start to end: {start:.2f} s, at most {MAX_START_S}")
        print(
            f"its processor time: {work:.2f} s, {ratio:.1f} imports of numpy, "
            f"at most {MAX_START_IMPORTS}"
        )
        slow = start > MAX_START_S and ratio > MAX_START_IMPORTS
        sys.exit(1 if megabytes > MAX_MB or there or slow else 0)


def size(folder: Path) -> int:
    """Bytes on the disk, as du counts them."""
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*"))


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """How long a command takes, and how long processors work for it."""
    start, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
