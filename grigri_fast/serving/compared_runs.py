"""Several runs on the same photographs: which those are, and what each model says of them.

Shapes: M photographs, C classes, L labels that changed sides.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig, read_toml
from ..data.corrections import GIVEN
from ..errors import GrigriError
from ..evaluation import comparison
from ..evaluation.comparison import OfModel
from ..inference.predictor import Classifier
from ..pipeline.check import check_images, without
from ..runs import checkpoint, run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName
from ..runs.trained_on import TrainedOn
from .background import Background, Tell
from .journal import Journal
from .scored_run import ScoredRun

Side: TypeAlias = Literal["", "won", "lost"]  # of a changed label; "": either


@dataclass(frozen=True)
class Contestant:
    """A run that can be compared with the first.

    Attributes:
        folder: of the run.
        config: every option.
        history: the rows of ``results.csv``.
        info: what its model is.
        probabilities_MC: what the model says, classes in the order of the first.
        thresholds_C: its own, in the same order.
    """

    folder: Path
    config: TrainConfig
    history: list[dict[str, float]]
    info: ModelInfo
    probabilities_MC: NDArray[np.float64]
    thresholds_C: NDArray[np.float64]

    @property
    def predicted_MC(self) -> NDArray[np.bool_]:
        """What the model gives with its own thresholds."""
        return self.probabilities_MC >= self.thresholds_C


@dataclass(frozen=True)
class Changed:
    """Labels that one run gets right and the first wrong, or the other way round.

    What differs most in probability comes first.

    Attributes:
        at_L: which of the M photographs.
        c_L: numbers of the classes.
        is_won_L: whether this run is right, and not the first.
    """

    at_L: NDArray[np.intp]
    c_L: NDArray[np.intp]
    is_won_L: NDArray[np.bool_]

    def numbers(self, c: int | None = None, side: Side = "") -> NDArray[np.intp]:
        """Return the numbers of those of one class and side, in order."""
        is_wanted_L = np.ones(len(self.at_L), dtype=bool)
        if c is not None:
            is_wanted_L &= self.c_L == c
        if side:
            is_wanted_L &= self.is_won_L == (side == "won")
        return np.flatnonzero(is_wanted_L)

    def counts(self, num_classes: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return how many of each class are won and lost."""
        won = np.bincount(self.c_L[self.is_won_L], minlength=num_classes)
        return won, np.bincount(self.c_L[~self.is_won_L], minlength=num_classes)


@dataclass(frozen=True)
class Compared:
    """All runs on the same photographs.

    Attributes:
        contestants: the first run, and those that can be compared with it.
        rows_M: the photographs, in the data of the first run.
        targets_MC: their labels, with the corrections.
        unknown_MC: labels that are not known; None: all are.
        num_corrected: labels of these photographs that the corrections have changed.
        models: scores and differences of each contestant.
        changed: of each contestant; of the first, nothing.
    """

    contestants: list[Contestant]
    rows_M: NDArray[np.intp]
    targets_MC: NDArray[np.bool_]
    unknown_MC: NDArray[np.bool_] | None
    num_corrected: int
    models: list[OfModel]
    changed: list[Changed]


class ComparedRuns:
    """Compares runs when somebody asks, once; after more corrections only the scores are new.

    Attributes:
        reasons: by run folder, why it cannot be compared; complete when all is scored.
    """

    def __init__(
        self,
        run: ScoredRun,
        others: Sequence[Path],
        checkpoint_name: CheckpointName,
        journal: Journal,
    ) -> None:
        self.reasons: dict[Path, str] = {}
        self._run, self._others, self._checkpoint = run, list(others), checkpoint_name
        self._journal = journal
        self._rows_M: NDArray[np.intp] = run.predictions.rows_N
        self._contestants = Background(
            self._score_all, "looking for photographs that no run was trained on"
        )
        self._lock = threading.Lock()
        self._found: tuple[dict[tuple[str, str], str], Compared] | None = None

    @property
    def num_others(self) -> int:
        """How many runs there are beside the first."""
        return len(self._others)

    def begin(self) -> None:
        """Begin to score the other runs, where that has not begun."""
        self._contestants.begin()

    def progress(self) -> tuple[str, float]:
        """Return in words what is being done, "" when all is, and the share that is.

        Raises:
            GrigriError: if it could not be done.
        """
        return self._contestants.progress()

    def compared(self) -> Compared | None:
        """Return the comparison by the labels and corrections of now; None until all is scored."""
        contestants = self._contestants.result()
        if contestants is None:
            return None
        with self._lock:
            now = dict(self._journal.values)
            if self._found is None or self._found[0] != now:
                self._found = now, self._compare(contestants, now)
            return self._found[1]

    # ------------------------------------------------------------------------- what is scored

    def _score_all(self, tell: Tell) -> list[Contestant]:
        run, compute = self._run, self._run.classifier.compute
        checked = check_images(
            run.data.paths, self._rows_M, threads=compute.threads, max_pixels=run.max_pixels
        )
        fit = self._those_that_fit(checked.crc32_N)
        scored: list[tuple[Path, ModelInfo, NDArray[np.float64]]] = []
        for number, folder in enumerate(fit, start=1):
            words = f"scoring {folder.name} ({number} of {len(fit)})"

            def on_progress(done: int, total: int, words: str = words) -> None:
                tell(words, done / max(1, total))

            path = run_folder.checkpoint_path(folder, self._checkpoint)
            with compute.open() as budget:
                model = Classifier.from_file(path, compute, run.max_pixels)
                probabilities_MC, bad = model.probabilities(
                    run.data.paths, self._rows_M, budget, on_progress, checked
                )
            rows_M = without(self._rows_M, bad)
            is_kept_M = np.isin(self._rows_M, rows_M)
            scored = [(f, info, p_MC[is_kept_M]) for f, info, p_MC in scored]
            self._rows_M = rows_M
            scored.append((folder, model.info, probabilities_MC))
        own = run.predictions
        own_MC = own.probabilities_NC[np.isin(own.rows_N, self._rows_M)]
        all_of_them = [(run.folder, run.classifier.info, own_MC), *scored]
        return [self._contestant(*one) for one in all_of_them]

    def _those_that_fit(self, crc32_N: NDArray[np.int64]) -> list[Path]:
        """Return the runs that have photographs in common; ``_rows_M`` becomes those."""
        fit = []
        for folder in self._others:
            try:
                is_common_M = self._common(folder, crc32_N[self._rows_M])
            except GrigriError as e:
                self.reasons[folder] = str(e)
                continue
            self._rows_M = self._rows_M[is_common_M]
            fit.append(folder)
        return fit

    def _common(self, folder: Path, crc32_M: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which photographs a run has in its validation part and was not trained on.

        Raises:
            GrigriError: if there are none, or it has other classes.
        """
        info = checkpoint.info_of(run_folder.checkpoint_path(folder, self._checkpoint))
        if info is None:
            raise GrigriError("its model cannot be read")
        of_first = set(self._run.classifier.class_names)
        more, less = set(info.class_names) - of_first, of_first - set(info.class_names)
        if more or less:
            named = {"has": sorted(more), "lacks": sorted(less)}
            words = [f"{verb} {', '.join(some[:3])}" for verb, some in named.items() if some]
            raise GrigriError(f"its classes are others: it {' and '.join(words)}")
        trained_on, first_on = TrainedOn.read(folder), TrainedOn.read(self._run.folder)
        if trained_on is None or first_on is None:
            raise GrigriError("one of the two does not say which photographs it was trained on")
        is_common_M = trained_on.chose_by(crc32_M) & ~trained_on.has_seen(crc32_M)
        if not is_common_M.any():
            raise GrigriError(
                "no photograph is in the validation part of both and unknown to the training of"
                " both"
            )
        return is_common_M

    def _contestant(
        self, folder: Path, info: ModelInfo, probabilities_MC: NDArray[np.float64]
    ) -> Contestant:
        columns = [info.class_names.index(name) for name in self._run.classifier.class_names]
        return Contestant(
            folder,
            TrainConfig(**read_toml(folder / run_folder.CONFIG)),
            run_folder.read_results(folder / run_folder.RESULTS),
            info,
            probabilities_MC[:, columns],
            info.thresholds_C[columns],
        )

    # -------------------------------------------------------------------- what follows from it

    def _compare(
        self, contestants: list[Contestant], decided: dict[tuple[str, str], str]
    ) -> Compared:
        data, rows_M = self._run.data, self._rows_M
        targets_MC = data.targets_NC[rows_M] > 0
        unknown_MC = np.zeros(targets_MC.shape, dtype=bool)
        if data.unknown_NC is not None:
            unknown_MC = data.unknown_NC[rows_M].copy()
        before = targets_MC.copy(), unknown_MC.copy()
        at = {data.names[row]: i for i, row in enumerate(rows_M.tolist())}
        column_of = {name: c for c, name in enumerate(data.class_names)}
        for (image, label), value in decided.items():
            if value != GIVEN and image in at and label in column_of:
                where = at[image], column_of[label]
                targets_MC[where], unknown_MC[where] = value == "1", value == "unknown"
        is_corrected_MC = (targets_MC != before[0]) | (unknown_MC != before[1])
        known = unknown_MC if unknown_MC.any() else None
        probabilities = [one.probabilities_MC for one in contestants]
        changed = [changed_labels(contestants[0], one, targets_MC, known) for one in contestants]
        return Compared(
            contestants,
            rows_M,
            targets_MC,
            known,
            int(is_corrected_MC.sum()),
            comparison.compare(probabilities, targets_MC, known),
            changed,
        )


def changed_labels(
    first: Contestant,
    other: Contestant,
    targets_MC: NDArray[np.bool_],
    unknown_MC: NDArray[np.bool_] | None,
) -> Changed:
    """Return the labels that one of two runs gets right with its own thresholds."""
    won_MC, lost_MC = comparison.changed_sides(
        first.predicted_MC, other.predicted_MC, targets_MC, unknown_MC
    )
    at_L, c_L = np.nonzero(won_MC | lost_MC)
    apart_L = np.abs(other.probabilities_MC[at_L, c_L] - first.probabilities_MC[at_L, c_L])
    order = np.argsort(-apart_L, kind="stable")
    at_L, c_L = at_L[order], c_L[order]
    return Changed(at_L, c_L, won_MC[at_L, c_L])
