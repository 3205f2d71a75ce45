"""predict on many files: it can be stopped anywhere, goes on, and ends as if it had not been."""

import csv
import gc
import io
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
from exported_runs import make_run
from small_runs import start

import grigri_fast
from grigri_fast.inference import predictor
from grigri_fast.inference.prediction import Prediction
from grigri_fast.inference.prediction_file import PredictionFile, note_of
from grigri_fast.pipeline import check

BAD = (0, 31, 32, 33, 70)


@pytest.fixture(scope="module")
def model(tmp_path_factory, photos_once: Path) -> Path:
    """Return a run of an untrained network, which tells images apart."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", photos_once, "grigri", 32)


@pytest.fixture
def many(tmp_path: Path, photos_once: Path) -> Path:
    """Return a folder of 107 files, of which some are bad: batches of 32, and at last 6."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(102 + len(BAD)):
        path = folder / f"{i:03}.jpg"
        if i in BAD:
            path.write_text("no picture")
        else:
            os.link(photos_once / "images" / f"im{i % 48 + 1}.jpg", path)
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "signum"), [("p.csv", signal.SIGINT), ("p.json", signal.SIGTERM)])
def test_it_is_stopped_and_goes_on_and_ends_with_the_same_bytes(
    cli, model, many, tmp_path, monkeypatch, name: str, signum: int
) -> None:
    words = ["predict", model, many, "--threads=1", "--amp=fp32", "--out"]
    expected = tmp_path / f"whole-{name}"
    code, _, error = cli(*words, expected)
    assert code == 1 and "000.jpg: not a JPEG" in error and "(and 4 more" in error
    out = tmp_path / name
    add = PredictionFile.add

    def stopped(file: PredictionFile, part: list[Prediction]) -> None:
        text = out.read_text()  # the rows before are there while it runs
        done = json.loads(text) if name == "p.json" else rows_of(text)
        assert len(done) == file.progress.images
        if done:
            os.kill(os.getpid(), signum)
        add(file, part)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "add", stopped)
        code, printed, err = cli(*words, out)
    verb = "interrupted" if signum == signal.SIGINT else "ended by SIGTERM"
    assert (code, printed) == (128 + signum, "")
    assert err == (
        f"{verb}; {out} has the first 36 images: the same command with --resume goes on\n"
    )
    before = out.read_bytes()
    code, _, err = cli(*words, out)
    assert code == 1 and "unfinished: go on with --resume" in err and err.count("\n") == 1
    assert out.read_bytes() == before
    code, printed, err = cli(*words, out, "--resume")
    assert (code, err) == (1, error) and printed == f"107 images -> {out}\n"
    assert out.read_bytes() == expected.read_bytes() and not note_of(out).exists()
    code, _, err = cli(*words, out, "--resume")
    assert code == 1 and "is finished" in err
    assert cli("predict", model, many, "--resume")[::2] == (
        2,
        "error: Invalid value: --resume goes with --out (see --help)\n",
    )


@pytest.mark.slow
def test_a_full_disk_leaves_whole_rows_to_go_on_with(cli, model, many, tmp_path) -> None:
    words = ["predict", model, many, "--threads=1", "--amp=fp32", "--out"]
    expected, out = tmp_path / "whole.json", tmp_path / "p.json"
    assert cli(*words, expected)[0] == 1
    limit = expected.stat().st_size * 2 // 3
    process = start(*words, out, file_size_limit=limit)
    printed, err = process.communicate()
    assert (process.returncode, printed) == (1, "")
    done = json.loads(out.read_text())
    assert 0 < len(done) < 107 and err == (
        f"error: {out}: cannot be written: File too large; {out} has the first {len(done)} images:"
        " the same command with --resume goes on\n"
    )
    assert cli(*words, out, "--resume")[0] == 1
    assert out.read_bytes() == expected.read_bytes() and not note_of(out).exists()


@pytest.mark.slow
def test_another_model_does_not_go_on(cli, model, many, tmp_path, monkeypatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in model.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "p.csv"
    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "finish", lambda file: os.kill(os.getpid(), signal.SIGINT))
        assert cli("predict", run, many, "--out", out)[0] == 130
    before = out.read_bytes()
    assert cli("eval", run, "--threshold=0.25", "--save")[0] == 0
    code, _, err = cli("predict", run, many, "--out", out, "--resume")
    assert code == 1 and err.count("\n") == 1 and "its thresholds have been changed" in err
    assert out.read_bytes() == before


def test_the_first_predictions_come_before_the_last_files_are_looked_at(
    model, many, monkeypatch
) -> None:
    monkeypatch.setattr(check, "_LOOKED_AT", 16)
    monkeypatch.setattr(predictor, "_BATCH_SIZE", 4)
    paths = sorted(many.iterdir())
    lazy = grigri_fast.load(model, threads=1).iter_predict(paths)
    first = next(lazy)
    paths[-1].unlink()
    *_, last = lazy
    assert first.path == paths[0] and first.error.startswith("not a JPEG")
    assert last.path == paths[-1] and last.error == os.strerror(2)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(model, many) -> None:
    paths = sorted(many.iterdir())
    classifier = grigri_fast.load(model, threads=1)

    def num_alive() -> int:
        return sum(type(one) is Prediction for one in gc.get_objects())

    gc.collect()
    before = num_alive()  # of other tests
    alive = []
    for number, prediction in enumerate(classifier.iter_predict(paths)):
        assert prediction.path == paths[number]
        del prediction
        if number % 20 == 0:
            alive.append(num_alive() - before)
    assert number == 106 and max(alive) <= 40
    assert classifier.predict(paths[:40])[:3] == list(
        itertools.islice(classifier.iter_predict(paths[:40]), 3)
    )
