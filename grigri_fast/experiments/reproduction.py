"""A reproduction of the report of 2020: its options, its folder, and what is in the folder.

Every row of the report has a folder of its own. A training row's is a run folder of ``train``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..errors import GrigriError
from ..evaluation import evaluator
from ..evaluation.bootstrap import Interval
from ..models import factory
from ..runs import run_folder
from ..runtime import files
from . import report_2020, row_predictions
from .report_2020 import Row
from .row_predictions import Predictions

FORMAT = "grigri-fast reproduce 1"  # of the summaries of rows that train nothing
REASONS = "could-not-run.json"
SEED = 0
_MIN_SIZE_PX = 32  # below, deep networks have no pixels left
_NOT_YET = "not run yet"


@dataclass(frozen=True)
class RowResult:
    """What a row has left behind.

    Attributes:
        row: the row.
        why: why there is no result, "" if there is one.
        summary: its ``summary.json``, empty without a result.
        history: the rows of its ``results.csv``, numbers as numbers.
        environment: its ``environment.json``.
        predictions: what its last model says about photographs, by part of the split; empty where
            nothing is stored.
    """

    row: Row
    why: str
    summary: dict[str, Any]
    history: list[dict[str, float]]
    environment: dict[str, Any]
    predictions: dict[str, Predictions] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return not self.why

    def score(self, key: str, way: str | None = None) -> Interval | None:
        """Return a score of the last epoch on the validation part, None if there is none.

        ``way``: how the threshold was chosen; by default as the report did.
        """
        way = way or (evaluator.TUNED if self.row.kind == "thresholds" else evaluator.AT_HALF)
        score = self.summary.get("validation", {}).get("scores", {}).get(way, {}).get(key)
        if score is None or score["value"] is None:
            return None
        return Interval(score["value"], score["low"], score["high"])


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How the report's rows are run, and where their results are.

    The fields are the options of :func:`reproduce.reproduce`.

    Raises:
        GrigriError: if a value is not allowed.
    """

    data: str
    out: Path
    network: str | None = None
    epochs: int = report_2020.EPOCHS
    limit: int | None = None
    size_scale: float = 1.0
    weights: str = "imagenet"
    device: str = "auto"
    amp: str = "auto"
    threads: int | None = None
    memory_limit: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.size_scale <= 1:
            raise GrigriError(
                f"--size-scale must be more than 0 and at most 1, not {self.size_scale}"
            )
        if self.network is not None:
            factory.check_name(self.network, "--network")
        if self.weights not in ("imagenet", "none"):
            self._check_weights(Path(self.weights))
        self.config(self.rows[1])  # checks the other values

    def _check_weights(self, weights: Path) -> None:
        """Raise GrigriError unless ``weights`` is the folder, or with a network the file."""
        if self.network is None and not weights.is_dir():
            raise GrigriError(
                f"--weights {weights}: no such folder (imagenet, none, or a folder of"
                f" torchvision's files are taken)"
            )
        if self.network is not None and not weights.is_file():
            raise GrigriError(
                f"--weights {weights}: no such file (imagenet, none, or the file of the one"
                f" --network are taken)"
            )

    @property
    def rows(self) -> tuple[Row, ...]:
        """The report's rows, with ``network`` in the place of its pretrained ones."""
        return report_2020.rows_with(self.network)

    def folder(self, row: Row) -> Path:
        """Return where a row's results are."""
        return self.out / row.name

    @property
    def split(self) -> Path:
        """The split that all rows share."""
        return self.out / run_folder.SPLIT

    def size_px(self, row: Row) -> int:
        """Return the side of a row's images."""
        scaled = round(row.options["size"] * self.size_scale)
        return min(row.options["size"], max(_MIN_SIZE_PX, scaled))

    def weights_of(self, row: Row) -> str:
        """Return ``imagenet``, ``none`` or the path of a file (which need not exist)."""
        if row.options["arch"] == "simple" or self.weights == "none":
            return "none"
        if self.weights == "imagenet":
            return "imagenet"
        if self.network is not None:
            return str(Path(self.weights).absolute())
        names = factory.weight_files(row.options["arch"])
        # The report had the oldest; the last is torchvision's default now.
        there = [name for name in names if (Path(self.weights) / name).is_file()]
        return str((Path(self.weights) / (there or names[-1:])[0]).absolute())

    def config(self, row: Row) -> TrainConfig:
        """Return the options with which ``grigri-fast train`` would run a row."""
        options = row.options | {"size": self.size_px(row), "weights": self.weights_of(row)}
        return TrainConfig(
            data=self.data,
            split=str(self.split),
            limit=self.limit,
            epochs=self.epochs,
            seed=SEED,
            device=self.device,
            amp=self.amp,
            threads=self.threads,
            memory_limit=self.memory_limit,
            out=str(self.out),
            name=row.name,
            **options,
        )

    def is_done(self, row: Row) -> bool:
        """Return whether a row's results are complete."""
        summary = self.folder(row) / run_folder.SUMMARY
        if not summary.is_file():
            return False
        if row.kind in ("train", "untrained"):
            return True
        stored = files.read_json(summary)
        if row.kind == "thresholds":
            last = self.out / report_2020.BASE / run_folder.LAST
            if last.is_file() and stored.get("of_sha256") != row_predictions.sha256(last):
                return False
        return stored.get("format") == FORMAT

    def can_resume(self, row: Row) -> bool:
        """Return whether a row's training can go on where it was stopped."""
        folder = self.folder(row)
        states = (run_folder.RESUME, run_folder.PREVIOUS)
        has_state = any((folder / name).is_file() for name in states)
        return has_state and (folder / run_folder.CONFIG).is_file()

    def results(self) -> list[RowResult]:
        """Return what the folders in ``out`` hold, row by row."""
        reasons = files.read_json(self.out / REASONS)
        results = []
        for row in self.rows:
            folder, is_done = self.folder(row), self.is_done(row)
            history = run_folder.read_results(folder / run_folder.RESULTS)
            why = "" if is_done else reasons.get(row.name) or _NOT_YET
            if why == _NOT_YET and self.can_resume(row):
                why = f"stopped after {len(history)} of {self.epochs} epochs; the same command goes"
                why += " on"
            summary = files.read_json(folder / run_folder.SUMMARY) if is_done else {}
            environment = files.read_json(folder / run_folder.ENVIRONMENT)
            predictions = row_predictions.read(folder) if is_done else {}
            results.append(RowResult(row, why, summary, history, environment, predictions))
        return results

    def note_reason(self, row: Row, reason: str | None) -> None:
        """Store why a row could not be run, for pages that are written later; None removes it."""
        reasons = files.read_json(self.out / REASONS)
        reasons[row.name] = reason
        kept = {name: why for name, why in reasons.items() if why is not None}
        files.write_json(self.out / REASONS, kept)
