"""The search for better options: what it tries, keeps, ends early, refuses, and goes on with."""

import csv
import dataclasses
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from grigri_fast.config import TrainConfig, read_toml
from grigri_fast.errors import DivergedError, GrigriError, Interrupted
from grigri_fast.evaluation.bootstrap import Interval
from grigri_fast.experiments import tuner
from grigri_fast.runs import run_folder
from grigri_fast.runtime import files
from grigri_fast.runtime.option import write_toml

SMALL = [
    "--arch=resnet18",
    "--weights=none",
    "--recipe=report",
    "--size=32",
    "--batch-size=16",
    "--threads=1",
]
WEIGHTS = {"best.safetensors", "last.safetensors"}
STATES = {"resume.safetensors", "resume-previous.safetensors"}


class Recorder(tuner.TuneCallback):
    """Records what a search calls, and calls ``at_epoch`` after each epoch of a run."""

    def __init__(self, at_epoch=None) -> None:
        self.started, self.ended, self.notes, self.epochs = [], [], [], []
        self.params = {}
        self._at_epoch = at_epoch

    def log(self, text: str) -> None:
        self.notes.append(text)

    def on_trial_start(self, trial, num_trials: int) -> None:
        self.started.append(trial.number)
        self.params[trial.number] = trial.params

    def on_epoch(self, row: dict, num_epochs: int, is_best: bool) -> None:
        self.epochs.append((self.started[-1], row["epoch"]))
        if self._at_epoch:
            self._at_epoch(*self.epochs[-1])

    def on_trial_end(self, trial, is_best: bool) -> None:
        self.ended.append((trial.number, trial.state))


def scripted(score_of):
    """Return a stand-in for training.train whose validation mAP is ``score_of(trial, epoch)``."""

    def train(config: TrainConfig, callback, resume: Path | None = None):
        folder = resume or run_folder.create_folder(config.out, config.name)
        (folder / run_folder.CONFIG).write_text(write_toml(config))
        (folder / run_folder.SPLIT).write_text('{"parts": {"train": [], "val": []}}')
        for name in (run_folder.BEST, run_folder.LAST, run_folder.PREVIOUS):
            (folder / name).write_bytes(b"")
        history = []
        for epoch in range(1, config.epochs + 1):
            score = score_of(int(folder.name.removeprefix("trial-")), epoch)
            row = {"epoch": epoch, "val_mAP": score, "val_micro_f1": 0.1, "val_loss": 1.0}
            history.append(row)
            (folder / run_folder.RESULTS).write_text(files.to_csv(history))
            callback.on_epoch(row, config.epochs, False)
        scores = SimpleNamespace(micro_f1=Interval(0.5, 0.4, 0.6))
        evaluation = SimpleNamespace(num_images=10, shown=scores)
        return SimpleNamespace(folder=folder, history=history, evaluation=evaluation, train_s=1.0)

    return train


@pytest.fixture
def fake(monkeypatch, tmp_path: Path):
    """Search with scripted scores; returns (what the search knows, the callback)."""

    def search(score_of, num_trials: int, recorder=None, **more):
        monkeypatch.setattr(tuner.trainer, "run", scripted(score_of))
        recorder = recorder or Recorder()
        options = {"epochs": 6, "out": tmp_path / "out"} | more
        return tuner.tune("-", trials=num_trials, callback=recorder, **options), recorder

    monkeypatch.setattr(tuner, "_require_same_data", lambda folder, config: None)
    return search


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------------- the real thing


@pytest.mark.slow
def test_the_best_options_train_to_the_score_that_was_promised(
    cli, photos_once: Path, tmp_path: Path
) -> None:
    out = tmp_path / "search"
    fixed = [*SMALL, "--epochs=1", "--test=0.2", "--momentum=0.8"]
    command = ["tune", photos_once, *fixed, "--trials=2", "--search=lr", "--out", out]
    code, printed, err = cli(*command)
    assert (code, err) == (0, "")
    assert "best of 2 on the same 10 images flatters" in printed
    assert "no trial has seen the 10 images of the test part" in printed

    first, second = rows_of(out)
    assert first["lr"] == "0.01" and first["state"] == second["state"] == "done"
    assert 0.001 <= float(second["lr"]) <= 0.1 and second["lr"] != "0.01"
    best, worse = sorted((first, second), key=lambda row: -float(row["mAP"]))
    kept = {"config.toml", "results.csv", "summary.json"}
    assert kept | WEIGHTS <= names_in(out / best["trial"])
    assert kept <= names_in(out / worse["trial"])
    assert not WEIGHTS & names_in(out / worse["trial"])
    assert not STATES & (names_in(out / best["trial"]) | names_in(out / worse["trial"]))
    assert (out / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert all(
        read_toml(out / t / "config.toml")["momentum"] == 0.8
        for t in names_in(out)
        if "trial-" in t
    )

    # --- the file trains to the very weights of the best trial, in a folder of its own
    code, _, err = cli("train", "--config", out / "best.toml", "--out", tmp_path / "runs")
    assert (code, err) == (0, "")
    (trained,) = (tmp_path / "runs").iterdir()
    assert trained.name == "photos-resnet18"
    history = list(csv.DictReader((trained / "results.csv").open(newline="")))
    assert history[-1]["val_mAP"] == best["mAP"]
    weights = [f / "last.safetensors" for f in (trained, out / best["trial"])]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    # --- the same command again has nothing left to do
    before = rows_of(out)
    code, again, err = cli(*command)
    assert (code, err) == (0, "") and "trial-000 (the start)" in again
    assert rows_of(out) == before


@pytest.mark.slow
def test_a_search_that_was_stopped_ends_as_one_that_was_not(
    photos_once: Path, tmp_path: Path
) -> None:
    options = {"arch": "squeezenet1_1", "weights": "none", "size": 32, "epochs": 2, "threads": 1}

    def search(name: str, recorder: Recorder):
        return tuner.tune(photos_once, trials=3, out=tmp_path / name, callback=recorder, **options)

    def stop(number: int, epoch: int) -> None:
        if (number, epoch) == (1, 1):
            raise KeyboardInterrupt

    whole = search("whole", Recorder())
    with pytest.raises(Interrupted) as stopped:
        search("parts", Recorder(stop))
    assert stopped.value.signum == signal.SIGINT
    assert stopped.value.advice == "the same command goes on"
    assert [row["trial"] for row in rows_of(tmp_path / "parts")] == ["trial-000"]

    recorder = Recorder()
    parts = search("parts", recorder)
    assert recorder.epochs == [(1, 2), (2, 1), (2, 2)]  # nothing is done twice
    for one, other in zip(whole.trials, parts.trials, strict=True):
        assert dataclasses.replace(one, train_s=0) == dataclasses.replace(other, train_s=0)


# ------------------------------------------------------------------------------ the trials


@pytest.mark.slow
def test_hopeless_trials_are_pruned_once_there_is_something_to_compare_with(fake) -> None:
    def score_of(number: int, epoch: int) -> float:
        return (0.1 if number in (1, 3) else 0.5) + epoch / 100

    tuned, _ = fake(score_of, 5)
    assert [t.state for t in tuned.trials] == ["done", "done", "done", "pruned", "done"]
    assert tuned.trials[3].epochs == 2  # a third of six
    assert tuned.trials[3].score == pytest.approx(0.12)
    assert tuned.best.number == 0  # of equals the first
    folder = tuned.folder / "trial-003"
    assert names_in(folder) == {"config.toml", "split.json", "results.csv", "summary.json"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pruned"] and summary["epochs"] == summary["last"]["epoch"] == 2


@pytest.mark.slow
def test_an_epoch_that_was_stored_but_not_reported_counts_after_a_kill(fake, monkeypatch) -> None:
    def killed(number: int, epoch: int) -> float:
        if number == 3 and epoch == 2:
            raise SystemExit
        return 0.1 if number == 3 else 0.5

    with pytest.raises(SystemExit):
        fake(killed, 4)
    row = {"val_mAP": 0.1, "val_micro_f1": 0.1, "val_loss": 1.0}
    stored = [{"epoch": epoch, **row} for epoch in (1, 2)]
    state = SimpleNamespace(progress=SimpleNamespace(history=stored))
    monkeypatch.setattr(tuner.resuming, "load_state", lambda folder: (state, ""))
    config = TrainConfig(data="-", epochs=6)
    monkeypatch.setattr(tuner.resuming, "resumed_config", lambda folder, given: config)
    tuned, recorder = fake(lambda number, epoch: 0.9, 4)
    assert recorder.epochs == [] and recorder.ended == [(3, "pruned")]
    assert tuned.trials[3].epochs == 2 and "summary.json" in names_in(tuned.folder / "trial-003")


def test_optuna_itself_opens_the_journal(fake) -> None:
    tuned, _ = fake(lambda number, epoch: 0.5, 2)
    journal = optuna.storages.journal.JournalFileBackend(str(tuned.folder / "journal.jsonl"))
    study = optuna.load_study(study_name="tune", storage=optuna.storages.JournalStorage(journal))
    assert [t.params for t in study.trials] == [t.params for t in tuned.trials]


@pytest.mark.slow
def test_a_trial_is_not_pruned_in_its_last_epoch(fake) -> None:
    tuned, _ = fake(lambda number, epoch: 0.5 - (number == 3 and epoch == 6) * 0.4, 4)
    assert tuned.trials[3].state == "done" and tuned.trials[3].epochs == 6


@pytest.mark.slow
def test_trials_that_diverge_or_run_out_of_memory_are_failed_ones(fake) -> None:
    def score_of(number: int, epoch: int) -> float:
        if number == 1:
            raise DivergedError("step 3: loss nan", "try a lower --lr")
        if number == 2:
            try:
                raise MemoryError
            except MemoryError as e:
                raise GrigriError("out of memory: train with a smaller --size") from e
        return float("nan") if number == 3 else 0.5

    tuned, _ = fake(score_of, 5)
    assert [t.state for t in tuned.trials] == ["done", "failed", "failed", "failed", "done"]
    reasons = [t.reason for t in tuned.trials[1:4]]
    assert reasons[:2] == ["step 3: loss nan", "out of memory"]
    assert "no validation image has a label" in reasons[2]
    assert [row["state"] for row in rows_of(tuned.folder)] == [t.state for t in tuned.trials]


def test_that_no_trial_was_finished_is_one_line(fake) -> None:
    def score_of(number: int, epoch: int) -> float:
        raise DivergedError("step 3: loss nan", "try a lower --lr")

    with pytest.raises(GrigriError, match="none of 2 trials was finished: trial-000: step 3"):
        fake(score_of, 2)


@pytest.mark.slow
def test_other_errors_end_the_search_and_the_trial_goes_on(fake) -> None:
    def full(number: int, epoch: int) -> float:
        if number == 1:
            raise GrigriError("no space left")
        return 0.5

    with pytest.raises(GrigriError, match="no space left"):
        fake(full, 3)
    tuned, recorder = fake(lambda number, epoch: 0.5, 3)
    assert recorder.started == [1, 2] and [t.state for t in tuned.trials] == ["done"] * 3


@pytest.mark.slow
def test_killed_before_there_is_anything_to_resume_a_trial_begins_again(fake) -> None:
    def killed(number: int, epoch: int) -> float:
        if number == 1:
            raise SystemExit
        return 0.5

    recorder = Recorder()
    with pytest.raises(SystemExit):
        fake(killed, 3, recorder)
    tuned, _ = fake(lambda number, epoch: 0.5, 3)
    names = sorted(p.name for p in tuned.folder.glob("trial-*"))
    assert names == ["trial-000", "trial-001", "trial-002"]
    assert tuned.trials[1].params == recorder.params[1] and tuned.trials[1].state == "done"


@pytest.mark.slow
def test_more_trials_may_be_asked_for_later(fake) -> None:
    fake(lambda number, epoch: 0.5, 2)
    tuned, recorder = fake(lambda number, epoch: 0.5 + number / 10, 4)
    assert recorder.started == [2, 3] and tuned.best.number == 3


def test_no_trial_begins_after_the_minutes(fake) -> None:
    with pytest.raises(GrigriError, match="none of 0 trials"):
        fake(lambda number, epoch: 0.5, 2, minutes=1e-9)
    tuned, recorder = fake(lambda number, epoch: 0.5, 2, minutes=10)
    assert len(tuned.trials) == 2
    assert all(note.startswith("network: ") for note in recorder.notes)


@pytest.mark.slow
def test_what_mattered_is_said_once_there_are_enough_trials(fake) -> None:
    few, _ = fake(lambda number, epoch: 0.5 + number / 100, 9, epochs=1)
    assert few.importance == {}
    many, _ = fake(lambda number, epoch: 0.5 + number / 100, 12, epochs=1)
    assert set(many.importance) == {"lr", "weight_decay", "momentum"}
    assert sum(many.importance.values()) == pytest.approx(1)


# ------------------------------------------------------------------------------ wrong usage


@pytest.fixture
def refused(cli, photos_once: Path, tmp_path: Path):
    """Run a search that must be refused before it trains."""

    def call(*args: object, says: str, code: int = 1, data=photos_once) -> None:
        data = [data] if data else []
        got, _, err = cli("tune", *data, *SMALL, "--epochs=1", *args)
        assert got == code and err.startswith("error: ") and err.count("\n") == 1, err
        assert says in err, err

    return call


def test_wrong_usage_is_one_line(refused, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    refused("--trials=0", *out, says="--trials", code=2)
    refused("--minutes=0", *out, says="--minutes must be more than 0", code=2)
    refused("--name=best", *out, says="--name does not go with tune")
    refused(*out, data=None, says="DATA is missing", code=2)
    refused("--search=nothing", *out, says="--search nothing: can be any of lr")
    refused(*out, data=tmp_path / "nowhere", says="no such file or folder")
    refused("--arch=resnet19", *out, says="resnet19")
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_search_in_one_folder(fake, tmp_path: Path) -> None:
    fake(lambda number, epoch: 0.5, 1)
    with run_folder.locked(tmp_path / "out"), pytest.raises(GrigriError, match="another process"):
        fake(lambda number, epoch: 0.5, 2)


def test_a_folder_that_is_no_search_is_refused_and_left_alone(refused, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused("--out", tmp_path / "mine", says="neither empty nor a folder of tune")
    refused("--out", tmp_path / "mine" / "letter.txt", says="letter.txt: File exists")
    assert names_in(tmp_path / "mine") == {"letter.txt"}
    (tmp_path / "mine" / "tune.json").write_text("[]")
    refused("--out", tmp_path / "mine", says="tune.json: not written by grigri-fast")


def test_another_search_in_the_folder_is_refused(cli, photos: Path, tmp_path: Path) -> None:
    def says(*options: str) -> str:
        code, _, err = cli(
            "tune", photos, *SMALL, "--trials=1", "--out", tmp_path / "out", *options
        )
        return err if code else ""

    same = ["--arch=squeezenet1_1", "--epochs=1"]
    assert says(*same) == ""
    assert "--epochs was 1, not 2" in says("--arch=squeezenet1_1", "--epochs=2")
    assert "--lr is searched there, and would be fixed now" in says(*same, "--lr=0.1")
    assert "--weight-decay is searched there" in says(*same, "--search=lr")
    assert says(*same, "--cache=off") == ""  # where it runs may change
    (photos / "annotations" / "cat.txt").write_text("2\n")
    changed = says(*same)
    assert "relabelled" in changed and "is not what its trials were trained on" in changed
    (tmp_path / "out" / "journal.jsonl").write_text('{"half a li')
    (tmp_path / "out" / "trial-000" / "data.json").unlink()
    assert "journal.jsonl: not written by grigri-fast" in says(*same)


def test_without_optuna_it_says_what_to_install(refused, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused("--out", tmp_path / "out", says="tune needs Optuna (optuna is not installed): pip")
    assert not (tmp_path / "out").exists()
