"""Signals that ask a run to stop are noted, so that the step can be finished and saved."""

import os
import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, what batch schedulers send, and the end of a terminal (which ``nohup`` ignores)."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and saved its state.

    Attributes:
        signal: What asked.
    """

    def __init__(self, received: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signal = received


class DeferredSignals(AbstractContextManager["DeferredSignals"]):
    """Notes the first signal instead of stopping half-way through a step.

    Ctrl-C after that stops at once. A second SIGTERM does not: ``timeout`` and some schedulers
    send it twice, to the process and to its group. A signal that is ignored stays so.

    Attributes:
        received: The first signal; None so far.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler is not None and handler is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = self.received or signal.Signals(number)
        if signal.SIGINT in self.previous:
            signal.signal(signal.SIGINT, self.previous[signal.SIGINT])


def ignore_signals(worker: int) -> None:  # noqa: ARG001 - a DataLoader gives its index
    """For processes that prepare data: they end when the main one wants it, whoever asks that.

    A signal to the whole group reaches them too, while the main process still needs their batches.
    It may itself end them by SIGTERM, so it matters who sent it.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
