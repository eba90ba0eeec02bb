"""What a large run costs: throughput beside a folder run, requests, bytes, memory of the driver.

python benchmarks/batch.py [--photos 2000] [--only throughput side_by_side ...]
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

import sharpmask
from machine import RESULTS, store
from sharpmask.integrations.arrow import Propose, schema
from sharpmask.integrations.on_ray import connected, write_parts
from sharpmask.integrations.parts import PART_SIZE, PLAN, Run, parquet_bytes, write_part
from sharpmask.stores import file_names, write_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from s3_server import ADDRESS, Store, s3_server  # type: ignore[import-not-found]

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"
COMMAND = [sys.executable, "-m", "sharpmask"]
FEW = 32
"""Photos of a run that mostly starts."""
EQUAL = os.environ | {"RAY_worker_niceness": "0"}
"""Ray's processes would give way to others, and the machine is shared."""


def crops(count: int, width: int, height: int) -> Iterator[bytes]:
    """JPEG files, each another crop of the bundled photo."""
    rng = np.random.default_rng(0)
    with Image.open(COFFEE) as photo:
        large = photo.convert("RGB").resize((1200, 800), Image.Resampling.LANCZOS)
    for _ in range(count):
        left, top = rng.integers(0, (1200 - width, 800 - height)).tolist()
        file = io.BytesIO()
        large.crop((left, top, left + width, top + height)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def seconds(*arguments: str) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], check=True, stdout=sys.stderr, env=EQUAL)
    return time.perf_counter() - start


def throughput(photos: int, folder: Path) -> dict[str, Any]:
    """Small photos by a folder run, then the same by a run on local Ray.

    A run of few photos tells what the start takes.
    """
    contents = crops(FEW + photos, 160, 120)
    rows = []
    for turn, size in enumerate((FEW, photos)):
        source = folder / f"photos-{turn}"
        source.mkdir()
        for number in range(size):
            (source / f"{number}.jpg").write_bytes(next(contents))
        commands = {
            "folder": ["propose", f"{source}", "--output", f"{folder}/one-{turn}", "--no-overlay"],
            "ray": ["batch", f"{source}", "--output", f"{folder}/ray-{turn}", "--part-size", "16"],
        }
        row: dict[str, float] = {"photos": size}
        row |= {f"{name}_s": seconds(*command, "--quiet") for name, command in commands.items()}
        rows.append(row)
        print(row, file=sys.stderr)
    few, many = rows
    steady = {name: many[name] - few[name] for name in ("folder_s", "ray_s")}
    return {
        "config": f"{photos} photos of 160x120",
        "rounds": rows,
        "folder_s": many["folder_s"],
        "ray_s": many["ray_s"],
        "ratio": many["folder_s"] / many["ray_s"],
        "ratio_without_start": steady["folder_s"] / steady["ray_s"],
    }


def side_by_side(photos: int, folder: Path) -> dict[str, Any]:
    """Photos that both runs do in the same minutes, at the same time, with two threads each.

    So both see the same machine, however busy it is. Starts do not count.
    """
    source = folder / "photos"
    source.mkdir()
    for number, content in enumerate(crops(photos, 160, 120)):
        (source / f"{number}.jpg").write_bytes(content)
    journal, parts = folder / "one" / ".proposals.json.journal", folder / "ray"

    def done() -> dict[str, int]:
        lines = journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0
        return {"folder": lines, "ray": 4 * len(list(parts.glob("*.parquet")))}

    options = [f"{source}", "--quiet", "--output"]
    commands = [
        [*COMMAND, "propose", *options, f"{journal.parent}", "--no-overlay"],
        [*COMMAND, "batch", *options, f"{parts}", "--part-size", "4"],
    ]
    running = [subprocess.Popen(command, env=EQUAL) for command in commands]
    try:
        while min(done().values()) < FEW:
            time.sleep(5)
        first = done()
        while max(done().values()) < photos - 2 * FEW and all(p.poll() is None for p in running):
            time.sleep(5)
        last = done()
    finally:
        for process in running:
            process.terminate()
            process.wait()
    counts = {name: last[name] - first[name] for name in first}
    return {
        "config": f"{photos} photos of 160x120, both at the same time, starts left out",
        "photos": counts,
        "ratio": counts["ray"] / counts["folder"],
    }


def service_times(count: int = 40) -> dict[str, Any]:
    """Processor seconds of a photo of 640x480 on one core, and bytes of its row."""
    propose = Propose(cores=1)
    photos = [*crops(count + 2, 640, 480)]
    times, tables = [], []
    for content in photos:
        table = pa.table({"path": [""], "bytes": [content]})
        start = time.process_time()
        tables.append(propose(table))
        times.append(time.process_time() - start)
    whole = pa.concat_tables(tables[2:])  # the first ones load the model
    return {
        "config": "640x480, 100 proposals, one core; processor time",
        "cpu_s": times[2:],
        "median_cpu_s": float(np.median(times[2:])),
        "row_bytes": len(parquet_bytes(whole)) / count,
        "photo_bytes": float(np.mean([len(content) for content in photos])),
    }


class Nothing(Propose):
    """Finds nothing, in no time: what is left is what the run itself takes."""

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [row | {"proposals": []} for row in table.to_pylist()]
        return pa.Table.from_pylist(rows, schema())


def requests(photos: int = 60, parts: int = 3) -> dict[str, Any]:
    """Requests to an object store for photos and parts; the store is moto's server."""
    propose = Propose(cores=1, num_proposals=5)
    content = next(crops(1, 160, 120))
    with s3_server() as server:
        paths = [f"{ADDRESS}/photos/{number}.jpg" for number in range(photos)]
        for path in paths:
            write_bytes(path, content)
        before = counts(server)
        table = pa.table({"id": range(photos), "path": paths})
        propose(table)
        read = counts(server)
        run = Run(f"{ADDRESS}/found", propose, photos // parts)
        run.add(table)
        planned = counts(server)
        for part in run.parts():
            write_part(run.folder, part, Nothing())
        written = counts(server)
    return {
        "per_photo": {kind: (read[kind] - before[kind]) / photos for kind in read},
        "per_part": {kind: (written[kind] - planned[kind]) / parts for kind in read},
        "per_run": {kind: planned[kind] - read[kind] for kind in read},
    }


def counts(server: Store) -> dict[str, int]:
    """Requests of each kind so far."""
    found = server.counts()
    return {kind: found[kind] for kind in ("GET", "HEAD", "PUT", "POST")}


@contextmanager
def peak_growth() -> Iterator[dict[str, float]]:
    """Peak memory of this process in the block, beyond what it had before."""
    result: dict[str, float] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    yield result
    result["seconds"] = time.perf_counter() - start
    result["bytes"] = 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def driver(folder: Path, photos: int = 1_000_000) -> dict[str, Any]:
    """Planning a million photos: time, memory and bytes."""
    paths = (f"s3://bucket/photos/{number // 1000:06}/{number:012}.jpg" for number in range(photos))
    table = pa.table({"path": pa.array(paths, pa.string())})
    with peak_growth() as plan:
        run = Run(str(folder / "plan"), Nothing(), PART_SIZE)
        run.add(table)
        left = run.left()
    size = sum((folder / "plan" / PLAN / name).stat().st_size for name in file_names(run._plan))
    return {
        "photos": photos, "parts": len(left), "s_per_photo": plan["seconds"] / photos,
        "memory_bytes_per_photo": plan["bytes"] / photos, "plan_bytes_per_photo": size / photos,
    }  # fmt: skip


def scheduling(folder: Path, parts: int = 400) -> dict[str, Any]:
    """Seconds that Ray takes for a part in which nothing is to be done, and to start."""
    run = Run(str(folder / "empty"), Nothing(cores=1), 1)
    run.add(pa.table({"path": [f"{number}.jpg" for number in range(parts)]}))
    start = time.perf_counter()
    with connected(None):
        up = time.perf_counter() - start
        moments = [
            time.perf_counter() - start
            for _ in write_parts(run.left(), run.folder, Nothing(cores=1))
        ]
    return {
        "parts": parts, "cluster_start_s": up, "first_part_s": moments[0],
        "s_per_part": (moments[-1] - moments[parts // 4]) / (parts - 1 - parts // 4),
    }  # fmt: skip


SECTIONS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    # Planning comes first: its peak of memory would hide below that of the others.
    "driver": lambda _, folder: driver(folder),
    "requests": lambda *_: requests(),
    "service": lambda *_: service_times(),
    "scheduling": lambda _, folder: scheduling(folder),
    "side_by_side": side_by_side,
    "throughput": throughput,
}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--photos", type=int, default=2000)
    arguments.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    given = arguments.parse_args()
    stored = RESULTS / "batch.json"
    content = json.loads(stored.read_text()) if stored.exists() else {}
    content.pop("machine", None)
    for name in given.only:
        with TemporaryDirectory() as folder:
            content[name] = SECTIONS[name](given.photos, Path(folder))
    store("batch", content)


if __name__ == "__main__":
    main()
