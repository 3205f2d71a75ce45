"""The search for better options: many short runs, scored on the same validation images.

Optuna proposes the options of each trial and ends hopeless ones early; it is needed by nothing
else, so it is imported only here, and only when a search begins.
"""

import contextlib
import dataclasses
import gc
import json
import math
import shutil
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import OPTIONS, TrainConfig, read_toml, resolve
from ..data import dataset
from ..errors import DivergedError, GrigriError, Interrupted
from ..reporting import plots
from ..runs import manifest, run_folder
from ..runtime import files, memory
from ..runtime.option import Option, write_toml
from ..training import checkpointer, trainer
from ..training.callbacks import Callback

STUDY, JOURNAL, TRIALS, BEST, FIGURE = (
    "tune.json",
    "journal.jsonl",
    "trials.csv",
    "best.toml",
    "tuning.png",
)
# The validation part's mAP at the last epoch. It needs no threshold, so that nothing else than the
# choice of the trial is fitted to the images that it is measured on; it is known after every epoch,
# so what ends a trial early is what it is judged by; and it does not jump where a threshold moves.
SCORE = "val_mAP"
DONE, PRUNED, FAILED, RUNNING = "done", "pruned", "failed", "running"

_FORMAT = "grigri-fast tune 1"
_NAME = "tune"  # of the one study in the journal
_ADVICE = "the same command goes on"
# Assumed: the median of fewer trials says little. One-cycle's rate rises for 30 % of the epochs,
# and high rates, which may win in the end, look bad until then.
_TRIALS_BEFORE_PRUNING = 3
_SHARE_BEFORE_PRUNING = 1 / 3
# Assumed: shares of importance from fewer finished trials are noise.
_TRIALS_FOR_IMPORTANCE = 10


# ------------------------------------------------------------------------- what is searched


# What can be searched, in the order in which a trial's values are drawn: options say so where they
# are declared. Those that change what an epoch costs (size, batch) do not: the search would be one
# for time as well.
SEARCHABLE = sorted(
    (about for about in OPTIONS.values() if about.search), key=lambda about: about.search.order
)

Space = dict[str, dict[str, Any]]


def space_of(config: TrainConfig, fixed: set[str], asked: Sequence[str] = ()) -> Space:
    """Return what is searched: ``{"low", "high", "log"}`` or ``{"choices"}`` by option.

    Args:
        config: where the search starts.
        fixed: options that stay as they are.
        asked: what to search; empty: all that is searched by default and is not fixed.

    Raises:
        GrigriError: if something that was asked for cannot be searched, or nothing is left.
    """
    names = [about.name for about in SEARCHABLE]
    start = resolve(config)
    for name in asked:
        if name not in names:
            raise GrigriError(f"--search {name}: can be any of {', '.join(names)}")
        flag = OPTIONS[name].flag
        if name in fixed:
            raise GrigriError(f"{flag} is given, so it is fixed; leave it or --search {name} out")
        if why_not := _has_no_effect(OPTIONS[name], start):
            raise GrigriError(f"--search {name}: not with {why_not}")
    if not asked:
        asked = [
            about.name
            for about in SEARCHABLE
            if about.search.by_default
            and about.name not in fixed
            and not _has_no_effect(about, start)
        ]
    if not asked:
        raise GrigriError("all that could be searched is given on the command line, so is fixed")
    return {about.name: _range(about, config) for about in SEARCHABLE if about.name in asked}


def _has_no_effect(about: Option, start: TrainConfig) -> str:
    """Return the option with which another one does nothing, or ""."""
    if about.augments and not start.augment:
        return "--no-augment"
    if about.search.optimizers and start.optimizer not in about.search.optimizers:
        return f"--optimizer {start.optimizer}"
    return ""


def _range(about: Option, config: TrainConfig) -> dict[str, Any]:
    """Return the range or choices of one option."""
    search, start = about.search, getattr(resolve(config), about.name)
    if about.choices:
        return {"choices": [start, *(choice for choice in about.choices if choice != start)]}
    if search.log and not start > 0:
        raise GrigriError(
            f"{about.flag} {start:g} is no start for a search by factors; give it on the command"
            f" line to keep it"
        )
    unit = start if search.times_start else 1
    low, high = min(search.low * unit, start), max(search.high * unit, start)
    if search.not_below and getattr(config, search.not_below) is not None:
        low = max(low, getattr(config, search.not_below))
    return {"low": low, "high": max(low, high), "log": search.log}


# ------------------------------------------------------------------------------- the result


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        number: from 0, which is the run that the search starts from.
        state: ``done``, ``pruned``, ``failed`` or ``running``.
        params: its value of each searched option.
        score: the validation part's mAP at its last epoch; None where it has failed.
        micro_f1: cross-fitted, with ``micro_f1_low`` and ``micro_f1_high`` its 95 % interval;
            where the trial is done.
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
        """Return the name of its folder."""
        return f"trial-{self.number:03d}"


@dataclass(frozen=True)
class Tuned:
    """What a search has found so far.

    Attributes:
        folder: where it is.
        trials: all that have ended, in their order.
        space: what was searched, see :func:`space_of`.
        importance: share of each option in whether a trial was among the better ones, or empty
            while there are too few trials to say.
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
        """Return the trial with the highest score of those that were trained to their end."""
        return _best(self.trials)


def _best(trials: Sequence[Trial]) -> Trial | None:
    """Return the best finished trial, of equals the first; None without one."""
    return max((t for t in trials if t.state == DONE), key=lambda t: t.score, default=None)


class TuneCallback(Callback):
    """A :class:`Callback` that a search calls, too."""

    def trial_starts(self, trial: Trial, num_trials: int) -> None:
        """A trial begins, or goes on."""

    def trial_ends(self, trial: Trial, is_best: bool) -> None:
        """A trial has ended."""


# ------------------------------------------------------------------------------- the search


def tune(
    config: TrainConfig,
    space: Space,
    num_trials: int,
    folder: Path,
    callback: TuneCallback,
    minutes: float | None = None,
) -> Tuned:
    """Search for the options with the best score, or go on with a search that was stopped.

    The first trial is ``config`` itself, so the best is never worse than what the search starts
    from. A trial that was stopped or killed goes on after its last stored step. Each proposal
    depends on the seed, the number of the trial and the trials before alone: a search that was
    stopped makes the trials that one that was not would have made.

    Args:
        config: where to start, and all that is not searched.
        space: see :func:`space_of`.
        num_trials: trials in all, those of an earlier call included.
        folder: made if it does not exist; else the search in it goes on.
        callback: told of the progress.
        minutes: begin no trial after so long.

    Raises:
        GrigriError: for whatever the user can fix; among them a folder of another search, and that
            no trial was finished.
        Interrupted: when a signal has stopped it; all is stored.
    """
    optuna = require_optuna()
    is_new = _prepare(folder, config, space)
    try:
        with run_folder.locked(folder), _advice():
            files.remove_unfinished(folder, [STUDY, JOURNAL, TRIALS, BEST, FIGURE])
            _require_same_data(folder, config)
            study = _Study(optuna, folder, config, space)
            _search(study, num_trials, callback, minutes)
            return _finish(study)
    except GrigriError:
        if is_new and not list(folder.glob("trial-*")):
            shutil.rmtree(folder, ignore_errors=True)  # a wrong option leaves nothing behind
        raise


def require_optuna() -> Any:
    """Return the module optuna, quiet.

    Raises:
        GrigriError: if it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as e:
        raise GrigriError(
            f"tune needs Optuna ({e.name} is not installed): pip install optuna"
        ) from e
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def _advice() -> Iterator[None]:
    """Say how to go on when a signal ends the search."""
    try:
        yield
    except Interrupted as e:
        raise Interrupted(e.signum, _ADVICE) from e
    except KeyboardInterrupt as e:
        raise Interrupted(signal.SIGINT, _ADVICE) from e


def _search(
    study: "_Study", num_trials: int, callback: TuneCallback, minutes: float | None
) -> None:
    """Make the trials that are missing."""
    start_s = time.monotonic()
    study.keep()
    while study.num_ended < num_trials:
        if minutes is not None and time.monotonic() - start_s >= 60 * minutes:
            callback.log(f"{minutes:g} minutes are over; {_ADVICE}")
            return
        trial = study.next()
        callback.trial_starts(study.trials()[trial.number], num_trials)
        _run(study, trial, callback)
        study.keep()
        trials = study.trials()
        ended = trials[trial.number]
        callback.trial_ends(ended, _best(trials) is ended)


def _run(study: "_Study", trial: Any, callback: TuneCallback) -> None:
    """Train one trial, or its rest, and enter how it ended."""
    reporter = _Reporter(trial, callback)
    config, resume, history = study.run_of(trial)
    try:
        reporter.catch_up(history, config.epochs)
        result = trainer.train(config, reporter, resume)
    except _PrunedError:
        _finish_pruned(study.folder_of(trial), reporter.history)
        study.enter(trial, PRUNED, epochs=len(reporter.history))
    except DivergedError as e:
        study.enter(trial, FAILED, epochs=len(reporter.history), reason=e.where)
    except GrigriError as e:
        if not memory.is_out_of_memory(e):
            raise
        study.enter(trial, FAILED, epochs=len(reporter.history), reason="out of memory")
    else:
        score = result.history[-1][SCORE]
        if math.isnan(score):
            reason = "mAP is no number: no validation image has a label"
            study.enter(trial, FAILED, epochs=len(result.history), reason=reason)
            return
        micro_f1 = result.evaluation.honest.micro_f1
        study.enter(
            trial,
            DONE,
            score=score,
            micro_f1=micro_f1.value,
            micro_f1_low=micro_f1.low,
            micro_f1_high=micro_f1.high,
            epochs=len(result.history),
            train_s=round(result.train_s, 1),
            num_val=result.evaluation.num_images,
        )
    finally:
        gc.collect()  # the model of this trial, before the next one is made


class _PrunedError(Exception):
    """Ends a run after an epoch; its files are written by then."""


class _Reporter(Callback):
    """Passes on what a run tells, and ends it after an epoch where it is hopeless."""

    def __init__(self, trial: Any, callback: TuneCallback) -> None:
        self._trial, self._callback = trial, callback
        self.log, self.on_check, self.on_step = callback.log, callback.on_check, callback.on_step
        self.history: list[dict[str, Any]] = []

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Report an epoch. It is the last that the loop does in one, so to raise here is safe."""
        self._callback.on_epoch(row, num_epochs, is_best)
        self.catch_up([row], num_epochs)

    def catch_up(self, rows: list[dict[str, Any]], num_epochs: int) -> None:
        """Report epochs, in case they were stored and the process killed before they were."""
        for row in rows:
            self.history.append(row)
            with warnings.catch_warnings():  # that it was reported already
                warnings.simplefilter("ignore")
                self._trial.report(row[SCORE], row["epoch"])
        if len(self.history) in range(1, num_epochs) and self._trial.should_prune():
            raise _PrunedError


def _finish_pruned(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write the ``summary.json`` that a run writes at its end, as far as there is one."""
    files.write_atomic(folder / run_folder.RESULTS, files.to_csv(history))
    summary = {"epochs": len(history), "pruned": True, "last": history[-1]}
    files.write_json(folder / run_folder.SUMMARY, summary | {"best": checkpointer.best(history)})


# -------------------------------------------------------------------------------- the study


class _Journal:
    """Where Optuna's JournalStorage keeps what happens: one file, written whole each time.

    In the format of its own JournalFileBackend, so that optuna-dashboard reads it. That one
    appends, and what a kill leaves of a line is an error for ever; and its lock outlives a kill.
    Here the folder is locked, and a study is small.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = files.read_text(path).splitlines() if path.exists() else []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return all that was written since."""
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write more."""
        lines = self._lines + [json.dumps(log, separators=(",", ":")) for log in logs]
        files.write_atomic(self._path, "".join(f"{line}\n" for line in lines))
        self._lines = lines


class _Study:
    """The trials of a search, in Optuna and on the disk."""

    def __init__(self, optuna: Any, folder: Path, config: TrainConfig, space: Space) -> None:
        self.folder, self.space = folder, space
        self._optuna, self._config = optuna, config
        try:
            self._storage = optuna.storages.JournalStorage(_Journal(folder / JOURNAL))
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_TRIALS_BEFORE_PRUNING,
                    n_warmup_steps=max(1, math.ceil(config.epochs * _SHARE_BEFORE_PRUNING)),
                ),
            )
        except (ValueError, KeyError, TypeError) as e:
            raise GrigriError(f"{folder / JOURNAL}: not written by grigri-fast: {e}") from e
        if not self._study.get_trials(deepcopy=False):
            start = resolve(config)
            self._study.enqueue_trial({name: getattr(start, name) for name in space})

    def _in_state(self, *names: str) -> list[Any]:
        states = tuple(getattr(self._optuna.trial.TrialState, name) for name in names)
        return self._study.get_trials(deepcopy=False, states=states)

    @property
    def num_ended(self) -> int:
        """How many trials have ended, in whatever way."""
        return len(self._in_state("COMPLETE", "PRUNED", "FAIL"))

    def next(self) -> Any:
        """Return the trial that was stopped, or else a new one."""
        running = self._in_state("RUNNING")
        number = running[0].number if running else self.num_ended
        # From seed and number, so that a resume does not draw the same numbers again.
        seed = np.random.SeedSequence((self._config.seed, number)).generate_state(1)[0]
        self._study.sampler = self._optuna.samplers.TPESampler(seed=int(seed))
        if running:
            study_id = self._storage.get_study_id_from_name(_NAME)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
            trial = self._optuna.trial.Trial(self._study, trial_id)
        else:
            trial = self._study.ask()
        for name, ways in self.space.items():  # what it has been given already, it keeps
            if "choices" in ways:
                trial.suggest_categorical(name, ways["choices"])
            else:
                trial.suggest_float(name, ways["low"], ways["high"], log=ways["log"])
        return trial

    def folder_of(self, trial: Any) -> Path:
        """Return the run folder of a trial."""
        return self.folder / f"trial-{trial.number:03d}"

    def run_of(self, trial: Any) -> tuple[TrainConfig, Path | None, list[dict[str, Any]]]:
        """Return the config of a trial; its folder and its epochs so far if it goes on in one."""
        folder = self.folder_of(trial)
        history = _stored_history(folder)
        if history is not None:
            given = {name: getattr(self._config, name) for name in ("data", *_MAY_CHANGE)}
            given = {name: value for name, value in given.items() if value is not None}
            return trainer.resumed_config(folder, given), folder, history
        if folder.exists():  # killed before there was anything to resume
            shutil.rmtree(folder)
        place = {"out": str(self.folder), "name": folder.name}
        return dataclasses.replace(self._config, **trial.params, **place), None, []

    def enter(self, trial: Any, state: str, score: float | None = None, **facts: Any) -> None:
        """Enter how a trial has ended; the facts first, since it counts once it has ended."""
        trial.set_user_attr("facts", facts)
        states = self._optuna.trial.TrialState
        how = {DONE: states.COMPLETE, PRUNED: states.PRUNED, FAILED: states.FAIL}[state]
        self._study.tell(trial.number, score, state=how)

    def trials(self) -> list[Trial]:
        """Return all trials that have begun, in their order."""
        states = self._optuna.trial.TrialState
        names = {states.COMPLETE: DONE, states.PRUNED: PRUNED, states.FAIL: FAILED}
        fields = {f.name for f in dataclasses.fields(Trial)}
        return [
            Trial(
                t.number,
                names.get(t.state, RUNNING),
                t.params,
                t.value,
                **{k: v for k, v in t.user_attrs.get("facts", {}).items() if k in fields},
            )
            for t in self._study.get_trials(deepcopy=False)
            if t.state != states.WAITING
        ]

    def keep(self) -> None:
        """Write ``trials.csv`` and ``best.toml``; remove the weights of all but the best trial."""
        trials = [t for t in self.trials() if t.state != RUNNING]
        best = _best(trials)
        if trials:
            files.write_atomic(self.folder / TRIALS, _to_csv(trials))
        if best:
            config = TrainConfig(**read_toml(self.folder / best.name / run_folder.CONFIG))
            config = dataclasses.replace(config, out=TrainConfig.out, name=None)
            files.write_atomic(self.folder / BEST, write_toml(config))
        for trial in trials:
            kept = {run_folder.BEST, run_folder.LAST} if trial is best else set()
            for name in {
                run_folder.BEST,
                run_folder.LAST,
                run_folder.RESUME,
                run_folder.PREVIOUS,
            } - kept:
                with contextlib.suppress(OSError):
                    (self.folder / trial.name / name).unlink()

    def num_val(self) -> int:
        """Return how many images the trials were scored on."""
        return self._in_state("COMPLETE")[0].user_attrs["facts"]["num_val"]

    def importance(self) -> dict[str, float]:
        """Return each option's share in whether a trial was good; empty with too few trials."""
        if len(self._in_state("COMPLETE")) < _TRIALS_FOR_IMPORTANCE or len(self.space) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._optuna.importance.get_param_importances(self._study)


def _finish(study: _Study) -> Tuned:
    """Draw the figure and return what was found."""
    trials = [t for t in study.trials() if t.state != RUNNING]
    best = _best(trials)
    if best is None:
        reason = next((f": {t.name}: {t.reason}" for t in trials if t.reason), "")
        raise GrigriError(f"none of {len(trials)} trials was finished{reason}")
    found = Tuned(
        folder=study.folder,
        trials=trials,
        space=study.space,
        importance=study.importance(),
        num_val=study.num_val(),
        num_test=_num_test(study.folder / best.name / run_folder.SPLIT),
    )
    png = plots.tuning(
        [dataclasses.asdict(t) for t in trials],
        found.space,
        found.importance,
        f"{study.folder.name}: {len(trials)} trials on {found.num_val:,} validation images",
    )
    files.write_atomic(study.folder / FIGURE, png)
    return found


# ------------------------------------------------------------------------------- the folder

# What says where a search runs, not what it finds; the data are compared by what they hold.
_MAY_CHANGE = ("images", "threads", "cache", "checkpoint_every", "tensorboard")


def _prepare(folder: Path, config: TrainConfig, space: Space) -> bool:
    """Make the folder of a search, or see that it is one of the same search.

    Returns:
        Whether it was made.

    Raises:
        GrigriError: if it is something else, or cannot be made.
    """
    options = dataclasses.asdict(resolve(config))
    for name in ("data", "out", "name", *_MAY_CHANGE):
        del options[name]
    wanted = {"format": _FORMAT, "searched": space, "options": options}
    for name in space:
        del options[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = next(folder.iterdir(), None) is None
    except OSError as e:
        raise GrigriError(f"--out {folder}: {e.strerror or e}") from e
    if is_empty:
        files.write_json(folder / STUDY, wanted)
        return True
    if not (folder / STUDY).is_file():
        raise GrigriError(f"--out {folder}: neither empty nor a folder of tune (it has no {STUDY})")
    try:
        there = json.loads(files.read_text(folder / STUDY))
        if there["format"] != _FORMAT:
            raise ValueError("of another version")
        difference = _difference(there, json.loads(files.to_json(wanted)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise GrigriError(f"{folder / STUDY}: not written by grigri-fast: {e}") from e
    if difference:
        raise GrigriError(f"--out {folder} holds another search: {difference}; take another --out")
    return False


def _difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words the first difference between two searches, or ""."""
    for name in then["searched"] | now["searched"]:
        flag = "--" + name.replace("_", "-")
        before, after = (d["searched"].get(name) for d in (then, now))
        if before is None:
            return f"{flag} was fixed there, and would be searched now"
        if after is None:
            return f"{flag} is searched there, and would be fixed now"
        if before != after:
            return f"{flag} was searched in {_in_words(before)}, not {_in_words(after)}"
    for name in then["options"] | now["options"]:
        before, after = (d["options"].get(name) for d in (then, now))
        if before != after:
            return f"--{name.replace('_', '-')} was {before}, not {after}"
    return ""


def _in_words(ways: dict[str, Any]) -> str:
    if "choices" in ways:
        return "/".join(map(str, ways["choices"]))
    return f"{ways['low']:g}..{ways['high']:g}"


def _require_same_data(folder: Path, config: TrainConfig) -> None:
    """Raise GrigriError if images or labels are not those of the trials that are there."""
    stored = next(iter(sorted(folder.glob(f"trial-*/{run_folder.DATA}"))), None)
    if stored is None:
        return
    data = dataset.load(config.data, config.images)
    difference = manifest.difference(stored, data)
    if difference:
        raise GrigriError(
            f"--out {folder}: {data.layout} is not what its trials were trained on: {difference};"
            f" take another --out"
        )


def _stored_history(folder: Path) -> list[dict[str, Any]] | None:
    """Return the epochs of a run that can go on; None if its state is not there, or not whole."""
    if any((folder / name).exists() for name in (run_folder.RESUME, run_folder.PREVIOUS)):
        with contextlib.suppress(GrigriError):
            return checkpointer.load_state(folder)[0].progress.history
    return None


def _num_test(file: Path) -> int:
    """Return how many images a split holds back."""
    return len(json.loads(files.read_text(file))["parts"].get("test", ()))


def _to_csv(trials: Sequence[Trial]) -> str:
    """Return the text of ``trials.csv``: a line per trial, a column per searched option."""
    rows = []
    for trial in trials:
        row = dataclasses.asdict(trial)
        del row["number"]
        state, score = row.pop("state"), row.pop("score")
        params, reason = row.pop("params"), row.pop("reason")
        first = {"trial": trial.name, "state": state, "mAP": score}
        rows.append(first | row | params | {"reason": reason})
    return files.to_csv(rows)
