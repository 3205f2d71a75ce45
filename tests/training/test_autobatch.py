"""A memory limit: the choices beside a device that answers from a script, and real commands."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from small_runs import SMALL, fit

from grigri_fast.errors import GrigriError
from grigri_fast.inference import forward
from grigri_fast.runtime import memory
from grigri_fast.runtime.memory import Budget
from grigri_fast.training import autobatch
from grigri_fast.training.autobatch import NothingFitsError, Plan

GIB = 2**30
ASKED = Plan(32, 32)


class Device:
    """A device where a step takes a constant and so much per image."""

    def __init__(self, fixed: float, per_image: float, checkpointed: float, runs_out: float = 99):
        self.fixed, self.per_image, self.checkpointed = fixed, per_image, checkpointed
        self.runs_out, self.tried = runs_out, []

    def __call__(self, tried: Plan) -> int | None:
        self.tried.append(tried)
        per_image = self.checkpointed if tried.checkpointing else self.per_image
        peak = self.fixed + tried.micro_batch_size * per_image
        return None if peak > self.runs_out else int(peak * GIB)


def chosen(device: Device, first: Plan = ASKED, limit: float = 4.0) -> autobatch.Choice:
    return autobatch.choose(first, device, int(limit * GIB))


def test_what_fits_as_asked_is_left_alone() -> None:
    device = Device(1, 0.05, 0.02)
    assert chosen(device) == autobatch.Choice(ASKED, int(2.6 * GIB))
    assert device.tried == [ASKED]


@pytest.mark.parametrize("runs_out", [4.0, 99])  # memory runs out, or the limit is passed
def test_then_micro_batches_with_the_same_batch(runs_out: float) -> None:
    device = Device(1, 0.18, 0.02, runs_out)
    found = chosen(device)
    assert found.plan == Plan(32, 16) and found.peak == int(3.88 * GIB)
    assert [tried.micro_batch_size for tried in device.tried] == [32, 16]
    assert "batch 32 in micro-batches of 16 (BatchNorm sees those alone)" in found.plan.in_words()


def test_then_checkpointing_first_of_the_whole_batch() -> None:
    found = chosen(Device(1, 1.0, 0.05))
    assert found.plan == Plan(32, 32, True)
    assert "activation checkpointing" in found.plan.in_words()
    assert chosen(Device(1, 1.0, 0.2)).plan == Plan(32, 8, True)


def test_else_it_is_refused_with_what_would_fit() -> None:
    with pytest.raises(NothingFitsError, match="--batch-size 2 --activation-checkpointing") as e:
        chosen(Device(1, 2.0, 1.0))
    assert str(e.value).startswith("this does not fit") and e.value.least is None
    with pytest.raises(NothingFitsError, match="smaller --size or a lighter --arch") as e:
        chosen(Device(5, 2.0, 0.1))
    assert e.value.least == int(5.2 * GIB)
    with pytest.raises(NothingFitsError, match="nothing fits but a smaller --size") as e:
        chosen(Device(5, 2.0, 0.1, runs_out=4.5))
    assert e.value.least is None


def test_what_was_asked_for_is_where_it_begins() -> None:
    device = Device(1, 1.0, 0.05)
    assert chosen(device, Plan(32, 12)).plan == Plan(32, 12, True)
    assert [t.micro_batch_size for t in device.tried] == [12, 8, 12]
    device = Device(1, 0.01, 0.3)
    assert chosen(device, Plan(32, 32, True)).plan == Plan(32, 8, True)
    assert all(tried.checkpointing for tried in device.tried)


def test_micro_batches_do_not_become_smaller_than_eight() -> None:
    device = Device(1, 1.0, 1.0)
    with pytest.raises(NothingFitsError):
        chosen(device, Plan(100, 100))
    assert [t.micro_batch_size for t in device.tried[:5]] == [100, 50, 25, 13, 8]


def test_the_largest_batch_that_fits() -> None:
    found = autobatch.largest(Device(1, 0.02, 0.01), 4 * GIB, 12_000)
    assert found.plan == Plan(128, 128) and found.peak == int(3.56 * GIB)
    assert autobatch.largest(Device(1, 0.02, 0.01), 4 * GIB, 100).plan.batch_size == 64
    assert autobatch.largest(Device(0, 0.0001, 0.0001), 4 * GIB, 12_000).plan.batch_size == 512
    assert autobatch.largest(Device(1, 1, 1), 4 * GIB, 12_000) is None


# ------------------------------------------------------------- through the real commands


def environment(run: Path) -> dict:
    return json.loads((run / "environment.json").read_text())


def scripted(monkeypatch, peaks: list[float | None]) -> list[float | None]:
    """Let trials answer from a list, in GiB."""

    def peak_of(work, budget: Budget) -> int | None:
        peak = peaks.pop(0)
        return None if peak is None else int(peak * GIB)

    monkeypatch.setattr(memory, "peak_of", peak_of)
    return peaks


@pytest.mark.slow
def test_within_a_limit_the_plan_and_the_peak_are_stored(cli, photos: Path, tmp_path: Path) -> None:
    code, out, err = cli("train", photos, "--out", tmp_path, *SMALL, "--memory-limit=8GiB")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("memory: ")]
    assert re.fullmatch(
        r"memory: batch 8; a trial took \d.* [MG]iB of 8.00 GiB, .* GiB to spare", line
    )
    run = tmp_path / "photos-shufflenet_v2_x0_5"
    stored = environment(run)["memory"]
    assert stored["limit_bytes"] == 8 * GIB
    assert stored["plan"] == {"batch_size": 8, "micro_batch_size": 8, "checkpointing": False}
    assert stored["margin_bytes"] == 8 * GIB - stored["trial_peak_bytes"] > 0
    assert "resident" in stored["measured"]
    summary = json.loads((run / "summary.json").read_text())
    assert 100 * 2**20 < summary["peak_memory_bytes"] < 8 * GIB
    # The same weights as without a limit: a trial leaves no trace in the random numbers.
    plain = fit(cli, photos, tmp_path, *SMALL, "--name=plain")
    assert (plain / "last.safetensors").read_bytes()[-1000:] == (
        run / "last.safetensors"
    ).read_bytes()[-1000:]
    assert json.loads((plain / "summary.json").read_text())["peak_memory_bytes"] > 0


@pytest.mark.slow
def test_a_limit_that_nothing_fits_is_one_line_and_leaves_no_folder(
    cli, photos: Path, tmp_path: Path
) -> None:
    code, _, err = cli("train", photos, "--out", tmp_path / "runs", *SMALL, "--memory-limit=9MiB")
    assert code == 1 and err.count("\n") == 1
    assert "--memory-limit 9 MiB: this does not fit" in err and ", or a limit of " in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_split_plan_is_kept_and_resumed(cli, photos: Path, tmp_path: Path, monkeypatch) -> None:
    scripted(monkeypatch, [9.0, 3.0])
    options = [*SMALL, "--batch-size=16", "--memory-limit=4GiB", "--name=split"]
    run = fit(cli, photos, tmp_path, *options, "--schedule=constant")
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["batch_size"], config["micro_batch_size"]) == (16, 8)
    assert not config["activation_checkpointing"]
    scripted(monkeypatch, [3.5])
    code, out, err = cli("train", "--resume", run, "--epochs=2")
    assert (code, err) == (0, "") and "in micro-batches of 8" in out
    scripted(monkeypatch, [3.9])
    code, _, err = cli("train", "--resume", run, "--epochs=3")
    assert code == 1 and "a resumed run keeps its plan" in err
    code, out, err = cli("eval", run)
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_checkpointing_and_batch_size_auto(cli, photos: Path, tmp_path: Path, monkeypatch) -> None:
    scripted(monkeypatch, [9.0, 2.0])
    run = fit(cli, photos, tmp_path, *SMALL, "--memory-limit=4GiB", "--name=checkpointed")
    assert environment(run)["memory"]["plan"]["checkpointing"]
    scripted(monkeypatch, [1.0, 2.0, 5.0])
    auto = [
        "--arch=shufflenet_v2_x0_5",
        "--weights=none",
        "--recipe=report",
        "--size=32",
        "--epochs=1",
    ]
    auto += ["--batch-size=auto", "--memory-limit=4GiB", "--name=auto"]
    run = fit(cli, photos, tmp_path, *auto)
    assert tomllib.loads((run / "config.toml").read_text())["batch_size"] == 16


@pytest.mark.slow
def test_a_limit_that_was_passed_while_training_ends_the_run_and_keeps_it(
    cli, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    def reset_peak(self) -> None:
        self.peak = 5 * GIB

    scripted(monkeypatch, [1.0])
    monkeypatch.setattr(Budget, "reset_peak", reset_peak)
    options = [*SMALL, "--memory-limit=4GiB", "--name=passed"]
    code, out, err = cli("train", photos, "--out", tmp_path, *options)
    assert code == 1 and err.count("\n") == 1
    assert "--memory-limit 4.00 GiB: 5.00 GiB were in use" in err
    monkeypatch.undo()
    code, out, err = cli("train", "--resume", tmp_path / "passed", "--memory-limit=8GiB")
    assert (code, err) == (0, "") and "after 1 of its" in out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "predict"])
def test_eval_and_predict_within_a_limit(
    cli, photos: Path, tmp_path: Path, monkeypatch, command: str
) -> None:
    run = fit(cli, photos, tmp_path, *SMALL)
    words = [command, run] + ([photos / "images"] if command == "predict" else [])
    _, expected, _ = cli(*words)
    code, out, err = cli(*words, "--memory-limit=8GiB")
    assert (code, err) == (0, "") and out == expected
    code, out, err = cli(*words, "--memory-limit=9MiB")
    assert code == 1 and err.count("\n") == 1 and "not even one image at a time fits" in err
    scripted(monkeypatch, [9.0, 9.0, 1.0])
    code, out, err = cli(*words, "--memory-limit=8GiB")  # in micro-batches
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["train", "DATA", "--memory-limit=lots"], 1, "--memory-limit 'lots': expected an amount"),
        (["train", "DATA", "--memory-limit=4"], 1, "did you mean 4GiB?"),
        (["train", "DATA", "--batch-size=big"], 2, "'big' is not a whole number or auto"),
        (["train", "DATA", "--batch-size=0"], 2, "0 is not at least 2"),
        (["train", "DATA", "--micro-batch-size=64"], 1, "is above --batch-size 32"),
        (["train", "DATA", "--memory-limit=4GiB", "--compile=on"], 1, "--compile on does not go"),
        (["bench", "step", "DATA", "--memory-limit=none"], 1, "--memory-limit 'none'"),
        (["profile", "DATA", "--device-memory=x"], 1, "--device-memory 'x'"),
        (["profile", "DATA", "--estimate", "--snapshot"], 1, "leave out --estimate"),
        (["profile", "DATA", "--snapshot", "--device=cpu"], 1, "of a GPU's memory"),
        (["profile", "DATA", "--arch=resnet3"], 1, "resnet3"),
        (["profile", "DATA", "--batch-size=64"], 1, "48 usable images are too few"),
    ],
)
def test_wrong_words(
    cli, photos_once: Path, tmp_path: Path, words, code: int, message: str
) -> None:
    words = [str(photos_once) if word == "DATA" else word for word in words]
    found, _, err = cli(*words, *([] if words[0] == "bench" else ["--out", tmp_path]))
    assert found == code and err.count("\n") == 1 and message in err, err
    assert not [*tmp_path.iterdir()]


TINY_STEP = ["--arch=squeezenet1_1", "--size=32", "--batch-size=8", "--amp=fp32"]


@pytest.mark.slow
def test_bench_within_a_limit(cli, photos_once: Path, monkeypatch) -> None:
    words = ["bench", "step", photos_once, *TINY_STEP, "--repeats=1"]
    monkeypatch.setattr("grigri_fast.profiling.timing._SECONDS", {"cpu": 0.01})
    code, out, err = cli(*words, "--memory-limit=8GiB")
    assert (code, err) == (0, "") and "memory: batch 8; a trial took" in out
    assert "peak memory of what --memory-limit is about" in out
    code, out, err = cli(*words, "--memory-limit=9MiB")
    assert code == 1 and "this does not fit" in err


def test_profile_shows_where_memory_and_time_go(cli, photos_once: Path, tmp_path: Path) -> None:
    words = ["profile", photos_once, *TINY_STEP, "--out", tmp_path, "--device-memory=1MiB"]
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    for name in ("program", "weights", "gradients", "optimizer state", "unexplained", "forward"):
        assert any(line.startswith(name) for line in out.splitlines()), name
    assert "does not fit 1 MiB" in out
    folder = tmp_path / "profile-squeezenet1_1"
    names = {"memory.png", "profile.json", "trace.json.gz"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "memory.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "profile.json").read_text())
    for step in ("training", "evaluation"):
        assert sum(found[step]["bytes"].values()) == found[step]["total_bytes"]
    num_parameters = 722_496 + 14 * 513  # without and with the head for 14 classes
    assert found["training"]["bytes"]["weights"] == 4 * num_parameters
    assert {"forward", "backward", "metrics", "optimizer"} < set(found["seconds"])


@pytest.mark.slow
def test_an_estimate_says_whether_it_fits(cli, tmp_path: Path) -> None:
    words = ["profile", "--estimate", "--arch=resnet34", "--size=64", "--out", tmp_path]
    code, out, err = cli(*words, "--device-memory=4GiB")
    assert (code, err) == (0, "") and "\nfits 4.00 GiB: " in out and "(assumed)" in out
    code, out, err = cli(*words, "--device-memory=1GiB")
    assert (code, err) == (0, "") and "\ndoes not fit 1.00 GiB: " in out


@pytest.mark.slow
def test_what_is_set_aside_for_decoding_is_in_the_limit_that_would_do() -> None:
    first, gib = Plan(8, 8), 2**30
    for choose in (autobatch._within, autobatch._as_before):
        assert choose(first, lambda plan: 3 * gib, 5 * gib, 3 * gib, gib).peak == 3 * gib
    with pytest.raises(GrigriError, match=r"--memory-limit 5\.00 GiB.*or a limit of 6\.25 GiB"):
        autobatch._within(first, lambda plan: 4 * gib, 5 * gib, 3 * gib, gib)
    with pytest.raises(GrigriError, match=r"takes 5\.00 GiB, and a resumed run keeps its plan"):
        autobatch._as_before(first, lambda plan: 4 * gib, 5 * gib, 3 * gib, gib)


def test_decoding_the_largest_comes_before_the_trial(
    cli, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    order = []
    plain = memory.release
    monkeypatch.setattr(forward, "decode_the_largest", lambda *args: order.append("decoded"))
    monkeypatch.setattr(memory, "release", lambda d: (order.append("tried"), plain(d))[1])
    fit(cli, photos, tmp_path, *SMALL, "--memory-limit=8GiB")
    assert order[0] == "decoded" and "tried" in order
