"""The trials of a search, and what the search knows from them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import files
from .search_space import Space

DONE, PRUNED, FAILED, RUNNING = "done", "pruned", "failed", "running"


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        number: from 0, which is the run that the search starts from.
        state: ``done``, ``pruned``, ``failed`` or ``running``.
        params: its value of each searched option.
        score: the validation part's mAP at its last epoch; None where it has failed.
        micro_f1: cross-fitted, with ``micro_f1_low`` and ``micro_f1_high`` its 95 % interval;
            None unless the trial is done.
        epochs: how many it trained.
        train_s: seconds of training.
        reason: why it failed, or "".
    """

    number: int
    state: str
    params: dict[str, Any]
    score: float | None = None
    micro_f1: float | None = None
    micro_f1_low: float | None = None
    micro_f1_high: float | None = None
    epochs: int = 0
    train_s: float | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"trial-{self.number:03d}"


@dataclass(frozen=True)
class Tuned:
    """What a search knows so far.

    Attributes:
        folder: where it is.
        trials: all that have ended, in their order.
        space: what was searched, see :func:`search_space.space_of`.
        importance: share of each option in whether a trial was among the better ones; empty while
            there are too few trials to say.
        num_val: images that every trial was scored on.
        num_test: images that no trial has seen.
    """

    folder: Path
    trials: list[Trial]
    space: Space
    importance: dict[str, float]
    num_val: int
    num_test: int

    @property
    def best(self) -> Trial:
        """The trial with the highest score among those that were trained to their end."""
        return best_of(self.trials)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the best finished trial, of equals the first; None without one."""
    return max((t for t in trials if t.state == DONE), key=lambda t: t.score, default=None)


def to_csv(trials: Sequence[Trial]) -> str:
    """Return the text of ``trials.csv``: a line per trial, a column per searched option."""
    rows = []
    for trial in trials:
        row = dataclasses.asdict(trial)
        first = {"trial": trial.name, "state": row.pop("state"), "mAP": row.pop("score")}
        params, reason = row.pop("params"), row.pop("reason")
        del row["number"]
        rows.append(first | row | params | {"reason": reason})
    return files.to_csv(rows)
