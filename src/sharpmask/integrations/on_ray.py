"""The parts of a large run, computed by the processes of a Ray cluster or of this machine."""

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sharpmask.engines import threads
from sharpmask.extras import extras_for
from sharpmask.integrations.arrow import Propose
from sharpmask.integrations.parts import Part, settings_of, write_part


def write_if_equal(
    folder: str, part: Part, propose: Propose, settings: dict[str, Any]
) -> tuple[int, int]:
    """Write a part in a process of Ray, if this machine computes what the run does.

    Args:
        folder: Address of the run's folder.
        part: What to write.
        propose: Finds the proposals.
        settings: What they are to be made with.

    Returns:
        How many photos the part has, and how many of them failed.

    Raises:
        ValueError: This machine has another model or version than the run.
    """
    own = settings_of(propose)
    for name, wanted in settings.items():
        if own[name] != wanted:
            raise ValueError(
                f"a machine of the cluster has {name} {own[name]}, the run {wanted}; install "
                "the same sharpmask and weights everywhere"
            )
    found = write_part(folder, part, propose)
    return len(found), len(found) - found["error"].null_count


@contextmanager
def _unheard() -> Iterator[None]:
    """Drop what Ray's own library says on standard error; what fails, it raises."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray cluster: of this machine alone without an address.

    Raises:
        MissingExtraError: Ray is not installed.
        OSError: The cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with extras_for("batch"):
        import ray
    local = {} if address else {"num_cpus": threads.cores(), "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _unheard():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises a plain one where a busy machine takes too long
        raise OSError(f"ray {address or ''}: {' '.join(str(error).split())}; try again") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own aborts the process
    try:
        yield
    finally:
        ray.shutdown()


def write_parts(
    parts: Iterable[Part], folder: str, propose: Propose, *, workers: int | None = None
) -> Iterator[tuple[int, int]]:
    """Write parts by processes of the connected cluster.

    A process that is killed is started anew and its part with it.

    Args:
        parts: What to write.
        folder: Address of the run's folder.
        propose: Finds the proposals; ``cores`` of it are taken by each process, 1 if None.
        workers: Processes at once; by default as many as the cluster's cores allow.

    Yields:
        Of each part, as it is written: how many photos it has, and how many of them failed.

    Raises:
        OSError: A part could not be written.
    """
    import ray
    import ray.exceptions

    count = propose.cores or 1
    write = ray.remote(
        num_cpus=count, num_gpus=1 if propose.device.startswith("cuda") else 0, max_retries=-1
    )(write_if_equal)
    settings = settings_of(propose)
    left, running = iter(parts), list[Any]()
    try:
        while True:
            # Twice as many as can run: no core waits for this process.
            cores = int(ray.cluster_resources().get("CPU", 1))  # machines come and go
            most = workers or max(1, 2 * cores // count)
            for part in islice(left, max(0, most - len(running))):
                running.append(write.remote(folder, part, propose, settings))
            if not running:
                return
            done, running = ray.wait(running)
            yield from ray.get(done)
    except ray.exceptions.RayError as error:
        raise OSError(f"ray: {str(error).strip().splitlines()[-1]}") from None
