"""What a training reports while it runs."""

from typing import Any


class Callback:
    """Called by the training loop as it proceeds; every method here does nothing.

    Subclass it and override what you need: progress bars, TensorBoard and the pruning of ``tune``
    do. An exception that a method raises ends the training. Only the first of several processes
    calls anything but :meth:`log`.
    """

    def log(self, text: str) -> None:
        """Take a line of text for the user: what was decided, what was left out, where files are.

        It may come from another thread: the one that waits for slow files, or for signals.
        """

    def on_check(self, done: int, total: int) -> None:
        """Called while the image files are checked: ``done`` of ``total`` so far."""

    def on_features(self, done: int, total: int) -> None:
        """Called while a linear probe computes features: of ``done`` of ``total`` images so far."""

    def on_step(
        self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float
    ) -> None:
        """Called after some of the training steps, a few times per second at most.

        Args:
            epoch: the current epoch, from 1.
            step, num_steps: steps done, and steps of the whole run.
            loss: mean over the images of this epoch so far.
            images_per_s: mean speed in this epoch.
        """

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Called when an epoch is done and its files are written.

        Args:
            row: the epoch's line of ``results.csv``.
            num_epochs: epochs of the whole run.
            is_best: whether its micro-F1 is the highest so far.
        """
