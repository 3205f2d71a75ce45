"""The search for better options: many short runs, scored on the same validation images.

Optuna proposes the options of each trial and ends hopeless trials early. Only this module imports
it, and only when a search begins.
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
from pathlib import Path
from typing import Any

import numpy as np

from ..config import TrainConfig, read_toml, resolve
from ..data import dataset
from ..errors import DivergedError, GrigriError, Interrupted
from ..reporting import plots
from ..runs import manifest, run_folder
from ..runtime import compute, files, memory
from ..runtime.files import StrPath
from ..runtime.option import given_options, write_toml
from ..training import resume as resuming
from ..training import setup, trainer
from ..training.callbacks import Callback
from . import search_space
from .callbacks import TuneCallback
from .search_space import Space
from .trials import DONE, FAILED, PRUNED, RUNNING, Trial, Tuned, best_of, to_csv

# The files of a search's folder, beside a run folder per trial.
DESCRIPTION, JOURNAL, TRIALS = "tune.json", "journal.jsonl", "trials.csv"
BEST, FIGURE = "best.toml", "tuning.png"
# The validation part's mAP at the last epoch. It needs no threshold, so that nothing but the choice
# of the trial is fitted to the images that it is measured on; it is known after every epoch, so
# that a trial is ended early by the same score that it is judged by; and it does not jump where a
# threshold moves.
SCORE = "val_mAP"

_NAME = "tune"  # of the only study in the journal
_ADVICE = "the same command goes on"
# Assumed: the median of fewer trials says little. One-cycle's rate rises for 30 % of the epochs,
# and high rates, which may win in the end, score badly until then.
_TRIALS_BEFORE_PRUNING = 3
_SHARE_BEFORE_PRUNING = 1 / 3
# Assumed: shares of importance from fewer finished trials are noise.
_TRIALS_FOR_IMPORTANCE = 10


def tune(
    data: StrPath | None = None,
    *,
    trials: int = 20,
    minutes: float | None = None,
    search: Sequence[str] = (),
    config: StrPath | None = None,
    callback: TuneCallback | None = None,
    **options: Any,
) -> Tuned:
    """Search for the options with the best score, as ``grigri-fast tune`` does.

    A search that was stopped goes on when it is called again with the same options. The first
    trial is where the search starts, so the best is never worse than that. A trial that was
    stopped or killed is resumed from its last stored step. What is proposed depends only on the
    seed, the number of the trial and the trials before: an interruption does not change it.

    Args:
        data: photographs and labels: a folder or a CSV.
        trials: trials in all, those of earlier calls included.
        minutes: begin no trial after so long.
        search: names of options to search; by default lr, weight_decay and momentum.
        config: a TOML file of options to start from.
        callback: called as trials and their trainings proceed.
        options: fields of :class:`TrainConfig` that are fixed; ``out`` is the search's folder.

    Raises:
        GrigriError: if an option is wrong, the folder holds another search, or no trial was
            finished.
        Interrupted: after a signal; everything is stored.
    """
    given = given_options(TrainConfig, {"data": data, **options}, "tune")
    start = search_space.start_config(given, config, minutes)
    callback = callback or TuneCallback()
    start = setup.with_network(start, compute.pick_device(start.device), callback.log)
    optuna = _require_optuna()
    space = search_space.space_of(start, set(given), search)
    name = f"tune-{run_folder.name_of(start.data, start.arch)}"
    folder = Path(start.out) if "out" in given else Path(TrainConfig.out) / name
    folder_is_new = _prepare(folder, search_space.description(start, space))
    try:
        with run_folder.locked(folder):
            files.remove_unfinished(folder, [DESCRIPTION, JOURNAL, TRIALS, BEST, FIGURE])
            _require_same_data(folder, start)
            running = _Search(optuna, folder, start, space, callback)
            running.run(trials, minutes)
            return running.finish()
    except (Interrupted, KeyboardInterrupt) as e:
        raise Interrupted(getattr(e, "signum", signal.SIGINT), _ADVICE) from e
    except GrigriError:
        if folder_is_new and not list(folder.glob("trial-*")):
            shutil.rmtree(folder, ignore_errors=True)  # a wrong option leaves nothing behind
        raise


def _require_optuna() -> Any:
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


def _prepare(folder: Path, description: dict[str, Any]) -> bool:
    """Make the folder of a search and return True, or require that it is one of the same search.

    Raises:
        GrigriError: if it is something else, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = next(folder.iterdir(), None) is None
    except OSError as e:
        raise GrigriError(f"--out {folder}: {e.strerror or e}") from e
    file = folder / DESCRIPTION
    if is_empty:
        files.write_json(file, description)
        return True
    if not file.is_file():
        raise GrigriError(
            f"--out {folder}: neither empty nor a folder of tune (it has no {DESCRIPTION})"
        )
    try:
        there = json.loads(files.read_text(file))
        if there["format"] != description["format"]:
            raise ValueError("of another version")
        difference = search_space.difference(there, json.loads(files.to_json(description)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise GrigriError(f"{file}: not written by grigri-fast: {e}") from e
    if difference:
        raise GrigriError(f"--out {folder} holds another search: {difference}; take another --out")
    return False


def _require_same_data(folder: Path, config: TrainConfig) -> None:
    """Raise GrigriError if images or labels are not those of the trials that are there."""
    stored = next(iter(sorted(folder.glob(f"trial-*/{run_folder.DATA}"))), None)
    if stored is None:
        return
    data = dataset.load(config.data, config.images, **config.how_labels)
    difference = manifest.difference(stored, data)
    if difference:
        raise GrigriError(
            f"--out {folder}: {data.layout} is not what its trials were trained on: {difference};"
            f" take another --out"
        )


class _PrunedError(Exception):
    """Ends a run after an epoch; its files are written by then."""


class _TrialCallback(Callback):
    """Passes calls on, reports epochs to Optuna, and ends a run where Optuna sees no hope."""

    def __init__(self, trial: Any, callback: TuneCallback) -> None:
        self._trial, self._callback = trial, callback
        self.log, self.on_check = callback.log, callback.on_check
        self.on_features, self.on_step = callback.on_features, callback.on_step
        self.history: list[dict[str, Any]] = []

    def on_epoch(self, row: dict[str, Any], num_epochs: int, is_best: bool) -> None:
        """Report an epoch. The loop does nothing after this call, so it is safe to raise here."""
        self._callback.on_epoch(row, num_epochs, is_best)
        self.report([row], num_epochs)

    def report(self, rows: list[dict[str, Any]], num_epochs: int) -> None:
        """Report epochs; what was stored before a kill may have been reported already."""
        for row in rows:
            self.history.append(row)
            with warnings.catch_warnings():  # about epochs that were reported already
                warnings.simplefilter("ignore")
                self._trial.report(row[SCORE], row["epoch"])
        if (
            run_folder.num_epochs(self.history) in range(1, num_epochs)
            and self._trial.should_prune()
        ):
            raise _PrunedError


class _Journal:
    """Where Optuna's JournalStorage keeps its records: one file, written whole each time.

    In the format of Optuna's own JournalFileBackend, so that optuna-dashboard reads it. That one
    appends, and what a kill leaves of a line is an error for ever; and its lock outlives a kill.
    Here the folder is locked, and a journal is small.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = files.read_text(path).splitlines() if path.exists() else []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the records from a number on."""
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write more records."""
        lines = self._lines + [json.dumps(log, separators=(",", ":")) for log in logs]
        files.write_atomic(self._path, "".join(f"{line}\n" for line in lines))
        self._lines = lines


class _Search:
    """A search that is going on: its trials, in Optuna (the module) and on the disk.

    ``config`` is where it starts, and all that is not searched; ``space`` is what is searched.
    """

    def __init__(
        self, optuna: Any, folder: Path, config: TrainConfig, space: Space, callback: TuneCallback
    ) -> None:
        self._folder, self._config, self._space = folder, config, space
        self._callback = callback
        self._optuna, states = optuna, optuna.trial.TrialState
        self._states = {DONE: states.COMPLETE, PRUNED: states.PRUNED, FAILED: states.FAIL}
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

    def run(self, num_trials: int, minutes: float | None) -> None:
        """Run the trials that are missing; begin none after some minutes."""
        start_s = time.monotonic()
        self._keep()
        while len(self._ended()) < num_trials:
            if minutes is not None and time.monotonic() - start_s >= 60 * minutes:
                self._callback.log(f"{minutes:g} minutes are over; {_ADVICE}")
                return
            trial = self._next()
            self._callback.on_trial_start(self._trials()[trial.number], num_trials)
            self._train(trial)
            self._keep()
            trials = self._trials()
            ended = trials[trial.number]
            self._callback.on_trial_end(ended, best_of(trials) is ended)

    def finish(self) -> Tuned:
        """Draw the figure and return what the search knows.

        Raises:
            GrigriError: if no trial was finished.
        """
        trials = self._ended()
        best = best_of(trials)
        if best is None:
            reason = next((f": {t.name}: {t.reason}" for t in trials if t.reason), "")
            raise GrigriError(f"none of {len(trials)} trials was finished{reason}")
        finished = self._study.get_trials(deepcopy=False, states=(self._states[DONE],))
        split = json.loads(files.read_text(self._folder / best.name / run_folder.SPLIT))
        tuned = Tuned(
            folder=self._folder,
            trials=trials,
            space=self._space,
            importance=self._importance(len(finished)),
            num_val=finished[0].user_attrs["facts"]["num_val"],
            num_test=len(split["parts"].get("test", ())),
        )
        png = plots.tuning(
            [dataclasses.asdict(t) for t in trials],
            tuned.space,
            tuned.importance,
            f"{self._folder.name}: {len(trials)} trials on {tuned.num_val:,} validation images",
        )
        files.write_atomic(self._folder / FIGURE, png)
        return tuned

    # ----------------------------------------------------------------------------- one trial

    def _next(self) -> Any:
        """Return the Optuna trial that was stopped, or else a new one."""
        is_running = (self._optuna.trial.TrialState.RUNNING,)
        running = self._study.get_trials(deepcopy=False, states=is_running)
        number = running[0].number if running else len(self._ended())
        # From seed and number, so that a resume does not draw the same numbers again.
        seed = np.random.SeedSequence((self._config.seed, number)).generate_state(1)[0]
        self._study.sampler = self._optuna.samplers.TPESampler(seed=int(seed))
        if running:
            study_id = self._storage.get_study_id_from_name(_NAME)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
            trial = self._optuna.trial.Trial(self._study, trial_id)
        else:
            trial = self._study.ask()
        for name, values in self._space.items():  # a value that it has already stays
            if "choices" in values:
                trial.suggest_categorical(name, values["choices"])
            else:
                trial.suggest_float(name, values["low"], values["high"], log=values["log"])
        return trial

    def _train(self, trial: Any) -> None:
        """Train one trial, or its rest, and enter how it ended."""
        reporter = _TrialCallback(trial, self._callback)
        folder = self._folder / f"trial-{trial.number:03d}"
        config, resume, history = self._run_of(trial, folder)
        try:
            reporter.report(history, config.epochs)
            result = trainer.run(config, reporter, resume)
        except _PrunedError:
            history = reporter.history
            # What a run writes at its end, as far as there is one.
            files.write_atomic(folder / run_folder.RESULTS, files.to_csv(history))
            summary = {
                "epochs": run_folder.num_epochs(history),
                "pruned": True,
                "last": history[-1],
            }
            summary["best"] = run_folder.best_row(history)
            files.write_json(folder / run_folder.SUMMARY, summary)
            self._enter(trial, PRUNED, epochs=run_folder.num_epochs(history))
        except DivergedError as e:
            self._enter(
                trial, FAILED, epochs=run_folder.num_epochs(reporter.history), reason=e.where
            )
        except GrigriError as e:
            if not memory.is_out_of_memory(e):
                raise
            self._enter(
                trial,
                FAILED,
                epochs=run_folder.num_epochs(reporter.history),
                reason="out of memory",
            )
        else:
            self._enter_result(trial, result)
        finally:
            gc.collect()  # the model of this trial, before the next one is made

    def _run_of(
        self, trial: Any, folder: Path
    ) -> tuple[TrainConfig, Path | None, list[dict[str, Any]]]:
        """Return the config of a trial; its folder and its epochs so far if it is resumed."""
        history = _stored_history(folder)
        if history is not None:
            names = ("data", *search_space.MAY_CHANGE)
            given = {name: getattr(self._config, name) for name in names}
            given = given_options(TrainConfig, given, "tune")
            return resuming.resumed_config(folder, given), folder, history
        if folder.exists():  # killed before there was anything to resume
            shutil.rmtree(folder)
        place = {"out": str(self._folder), "name": folder.name}
        return dataclasses.replace(self._config, **trial.params, **place), None, []

    def _enter_result(self, trial: Any, result: trainer.Result) -> None:
        """Enter the scores of a trial that was trained to its end."""
        num_epochs = run_folder.num_epochs(result.history)
        score = result.history[-1][SCORE]
        if math.isnan(score):
            reason = "mAP is no number: no validation image has a label"
            self._enter(trial, FAILED, epochs=num_epochs, reason=reason)
            return
        micro_f1 = result.evaluation.shown.micro_f1
        self._enter(
            trial,
            DONE,
            score=score,
            micro_f1=micro_f1.value,
            micro_f1_low=micro_f1.low,
            micro_f1_high=micro_f1.high,
            epochs=num_epochs,
            train_s=round(result.train_s, 1),
            num_val=result.evaluation.num_images,
        )

    def _enter(self, trial: Any, state: str, score: float | None = None, **facts: Any) -> None:
        """Enter how a trial has ended; the facts first, since it counts once it has ended."""
        trial.set_user_attr("facts", facts)
        self._study.tell(trial.number, score, state=self._states[state])

    # ---------------------------------------------------------------------------- all trials

    def _trials(self) -> list[Trial]:
        """Return all trials that have begun, in their order."""
        names = {state: name for name, state in self._states.items()}
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
            if t.state != self._optuna.trial.TrialState.WAITING
        ]

    def _ended(self) -> list[Trial]:
        return [trial for trial in self._trials() if trial.state != RUNNING]

    def _keep(self) -> None:
        """Write ``trials.csv`` and ``best.toml``; remove the weights of all but the best trial."""
        trials = self._ended()
        best = best_of(trials)
        if trials:
            files.write_atomic(self._folder / TRIALS, to_csv(trials))
        if best:
            config = TrainConfig(**read_toml(self._folder / best.name / run_folder.CONFIG))
            config = dataclasses.replace(config, out=TrainConfig.out, name=None)
            files.write_atomic(self._folder / BEST, write_toml(config))
        for trial in trials:
            names = {run_folder.RESUME, run_folder.PREVIOUS}
            names |= set() if trial is best else {run_folder.BEST, run_folder.LAST}
            for name in names:
                with contextlib.suppress(OSError):
                    (self._folder / trial.name / name).unlink()

    def _importance(self, num_finished: int) -> dict[str, float]:
        """Return each option's share in whether a trial was good; empty with too few trials."""
        if num_finished < _TRIALS_FOR_IMPORTANCE or len(self._space) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._optuna.importance.get_param_importances(self._study)


def _stored_history(folder: Path) -> list[dict[str, Any]] | None:
    """Return the epochs of a run that can go on; None if its state is not there, or not whole."""
    if any((folder / name).exists() for name in (run_folder.RESUME, run_folder.PREVIOUS)):
        with contextlib.suppress(GrigriError):
            return resuming.load_state(folder)[0].progress.history
    return None
