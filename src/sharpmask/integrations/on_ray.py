"""The parts of a large run, computed by the processes of a Ray cluster or of this machine."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sharpmask.engines.threads import cores
from sharpmask.extras import extras_for
from sharpmask.integrations.arrow import Propose
from sharpmask.integrations.parts import Part, settings_of, write_part


class WritePart:
    """Writes parts in a process of Ray.

    Args:
        folder: Address of the run's folder.
        propose: Finds the proposals.
        settings: What they are to be made with.

    Raises:
        ValueError: This machine has another model or version than the run.
    """

    def __init__(self, folder: str, propose: Propose, settings: dict[str, Any]) -> None:
        own = settings_of(propose)
        for name, wanted in settings.items():
            if own[name] != wanted:
                raise ValueError(
                    f"a machine of the cluster has {name} {own[name]}, the run {wanted}; install "
                    "the same sharpmask and weights everywhere"
                )
        self.folder = folder
        self.propose = propose

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the part of a row; gives how many photos it has, and how many failed."""
        found = write_part(self.folder, row["part"], self.propose)
        return {"photos": len(found), "failed": len(found) - found["error"].null_count}


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
        import ray.data
    local = {} if address else {"num_cpus": cores(), "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _unheard():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises a plain one where a busy machine takes too long
        raise OSError(f"ray {address or ''}: {' '.join(str(error).split())}; try again") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own aborts the process
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def write_parts(
    parts: Sequence[Part], folder: str, propose: Propose, *, workers: int | None = None
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
    import ray.data
    import ray.exceptions

    count = propose.cores or 1
    available = int(ray.cluster_resources().get("CPU", 1) // count)
    most = max(1, min(workers or available, len(parts)))
    written = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=len(parts)
    ).map(
        WritePart,
        fn_constructor_args=(folder, propose, settings_of(propose)),
        num_cpus=count,
        num_gpus=1 if propose.device.startswith("cuda") else 0,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, initial_size=most, max_size=most, max_tasks_in_flight_per_actor=1
        ),
    )
    try:
        for row in written.iter_rows():
            yield row["photos"], row["failed"]
    except ray.exceptions.RayError as error:
        raise OSError(f"ray: {str(error).strip().splitlines()[-1]}") from None
