"""Who is told of a training while it goes on."""

from typing import Any, Protocol


class Watcher(Protocol):
    """What the loop tells whoever watches; the command line shows it."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    def checking(self, done: int, total: int) -> None:
        """``done`` of ``total`` images have been checked."""

    def step(self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float) -> None:
        """Step ``step`` of ``num_steps`` of the whole run is done; loss: mean over this epoch."""

    def epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """An epoch is done; ``row`` is its line of ``results.csv``."""


class Quiet:
    """A :class:`Watcher` that says nothing; override what you want to hear of a training."""

    def note(self, text: str) -> None:
        """See :class:`Watcher`."""

    def checking(self, done: int, total: int) -> None:
        """See :class:`Watcher`."""

    def step(self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float) -> None:
        """See :class:`Watcher`."""

    def epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """See :class:`Watcher`."""
