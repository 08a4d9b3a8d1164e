"""Traffic that checks each byte, in a thread of its own, and knows when the last request was answered."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

__all__ = ["PATIENCE", "Load"]

PATIENCE = 180.0
"""Seconds that a service may take to be back, on a machine that is busy."""


class Load(AbstractContextManager["Load"]):
    """One request after the other. A subclass gives `run`, which calls `answered` and ends once `ending` is set."""

    def __init__(self) -> None:
        self.requests = 0
        """Requests that were answered, and whose answers were right."""
        self.ending = threading.Event()
        self._changed = threading.Condition()
        self._since = self._begun = 0.0
        self._back: float | None = None
        """Time of the first answer to a request that was sent after `_since`."""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._guard, name=type(self).__name__)

    def run(self) -> None:
        """Send requests until `ending` is set. An exception is the end of the load, and is raised to those who wait."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """Return the counters of the load."""
        return {"requests": self.requests}

    def answered(self, sent: float) -> None:
        """Note that a request was answered rightly that was ``sent`` at this time."""
        with self._changed:
            self.requests += 1
            if self._back is None and sent >= self._since:
                self._back = time.monotonic()
                self._changed.notify_all()

    def mark(self, begun: float | None = None) -> None:
        """Begin to measure: what disturbs the service has happened, after ``begun`` (default: now)."""
        with self._changed:
            self._since, self._back = time.monotonic(), None
            self._begun = self._since if begun is None else begun

    @property
    def is_back(self) -> bool:
        """Whether a request that was sent after `mark` has been answered."""
        return self._back is not None

    def wait_back(self) -> float:
        """Wait until a request that was sent after `mark` is answered; return the seconds from ``begun`` to then.

        Raises the error that ended the load, or AssertionError after `PATIENCE`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._back is not None or self._error is not None, PATIENCE)
            if self._error is not None:
                raise self._error
            assert self._back is not None, f"{type(self).__name__}: no request was answered for {PATIENCE:g} s"
            return self._back - self._begun

    def end(self) -> None:
        """End the thread. Raises the error that ended the load."""
        self.ending.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        except Exception:
            if error is None:
                raise

    def _guard(self) -> None:
        try:
            self.run()
        except Exception as exc:  # noqa: BLE001  raised in the thread that waits
            with self._changed:
                self._error = exc
                self._changed.notify_all()
