"""What is called while experiments proceed; a subclass shows or logs it.

Apart from what runs the experiments, since the command line needs these at every start and PyTorch
only for some commands.
"""

from ..training.callbacks import Callback
from .report_2020 import Row
from .trials import Trial


class TuneCallback(Callback):
    """A :class:`Callback` of every trial's training that is also called between trials."""

    def on_trial_start(self, trial: Trial, num_trials: int) -> None:
        """Called when a trial begins, or is resumed.

        Args:
            trial: its number and its options.
            num_trials: how many there will be.
        """

    def on_trial_end(self, trial: Trial, is_best: bool) -> None:
        """Called when a trial has ended; ``is_best``: no trial before has a better score."""


class ReproduceCallback(Callback):
    """A :class:`Callback` of every training that is also called when a row begins."""

    def on_row(self, number: int, total: int, row: Row) -> None:
        """Called before a row is run.

        Args:
            number: of the row, from 1.
            total: how many rows are run.
            row: its name and options.
        """


class CurveCallback(Callback):
    """A :class:`Callback` that is also called while the heads of a learning curve are fitted."""

    def on_head(self, done: int, total: int) -> None:
        """Called with the heads that are fitted, and with all."""
