"""Work that begins when somebody asks for it, in a thread of its own, and is done once."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..errors import GrigriError

T = TypeVar("T")
Tell = Callable[[str, float], None]


class Background(Generic[T]):
    """The result of some work, as soon as there is one.

    Args:
        work: called once, with a function that takes what is being done, in words, and the share
            of it that is done.
        what: the same for all of the work.
    """

    def __init__(self, work: Callable[[Tell], T], what: str) -> None:
        self._work, self._said = work, (what, 0.0)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._result: list[T] = []
        self._error: Exception | None = None

    def begin(self) -> None:
        """Begin, where that has not happened."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def result(self) -> T | None:
        """Return what came out; None as long as there is nothing.

        Raises:
            GrigriError: if the work has failed.
        """
        if self._error is not None:
            raise GrigriError(str(self._error)) from self._error
        return self._result[0] if self._result else None

    def progress(self) -> tuple[str, float]:
        """Return what is being done, and the share of it that is done; "" at the end.

        Raises:
            GrigriError: if the work has failed.
        """
        return self._said if self.result() is None else ("", 1.0)

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._tell))
        except Exception as e:  # it is told to whoever asks
            self._error = e

    def _tell(self, words: str, share: float) -> None:
        self._said = words, share
