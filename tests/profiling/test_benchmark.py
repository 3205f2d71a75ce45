import json
from pathlib import Path

import pytest
import torch

from grigri_fast.config import TrainConfig
from grigri_fast.profiling import benchmark, timing
from grigri_fast.profiling.setting import Setting
from grigri_fast.profiling.timing import Case
from grigri_fast.runtime.compute import Compute

TINY = ["--arch=squeezenet1_1", "--size=32", "--batch-size=8", "--repeats=1", "--amp=fp32"]


@pytest.fixture(autouse=True)
def hurry(monkeypatch) -> None:
    monkeypatch.setitem(timing._SECONDS, "cpu", 0.01)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_everything_is_measured_beside_torchvision(cli, photos: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "bench.json"
    words = ["all", photos, *TINY, "--against=torchvision", "--json", out_file]
    code, out, err = cli("bench", *words)
    assert (code, err) == (0, "")
    names = ("input, decoding", "input, from the cache", "training step", "training, end to end")
    for name in (*names, "evaluation"):
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert line.count("x (") == 1, line
    assert "of the time" in out and "bounds the speed" in out and "MiB" in out
    figures = json.loads(out_file.read_text())
    assert figures["images"] == 48 and figures["environment"]["packages"]["torch"]
    assert {(r["what"], r["name"]) for r in figures["results"]} == {
        ("pipeline", "grigri-fast, decoding"),
        ("pipeline", "grigri-fast, from the cache"),
        ("pipeline", "torchvision, PIL"),
        *((what, who) for what in ("step", "train", "evaluation") for who in WHO),
    }
    assert all(r["images_per_s"][0] > 0 for r in figures["results"])
    # squeezenet1_1 at 32 px, counted by PyTorch: of the order of 10 million per image.
    assert 5e6 < figures["train_flops_per_image"] < 1e8


WHO = ("grigri-fast", "torchvision, fp32")


def test_one_part_alone_and_the_data_without_a_part(cli, photos: Path) -> None:
    code, out, _ = cli("bench", "pipeline", photos, *TINY, "--no-fast")
    assert code == 0 and "input" in out and "training" not in out and "ratio" not in out
    code, out, _ = cli("bench", "step", photos, *TINY)
    assert code == 0 and "TFLOP/s" in out and "input," not in out


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["everything", "DATA"], 2, "'everything' is not pipeline, step, train or all"),
        (["step", "DATA", "--batch-size=32"], 1, "48 usable images are too few"),
        (["step", "nowhere"], 1, "nowhere"),
        (["step", "DATA", "--arch=resnet3"], 1, "resnet3"),
        (["step", "DATA", "--json=/nowhere/x.json"], 1, "its folder does not exist"),
        (["step", "DATA", "--against=jax"], 2, "torchvision"),
        (["step", "DATA", "--repeats=0"], 2, "--repeats"),
    ],
)
def test_wrong_words(cli, photos: Path, words: list[str], code: int, message: str) -> None:
    words = [str(photos) if word == "DATA" else word for word in words]
    got, out, err = cli("bench", *words)
    assert got == code and err.count("\n") == 1 and message in err, err
    assert all(line.startswith("network: ") for line in out.splitlines())


def test_what_bounds_the_speed_is_said_from_the_measurements() -> None:
    def case(what: str, how: str, speed: float, **notes: list[float]) -> Case:
        return Case(what, benchmark.OURS, how, lambda: speed, notes, [speed])

    compute = Compute(torch.device("cpu"), "bf16", threads=2)
    setting = Setting(paths=[], check=None, config=TrainConfig(), compute=compute)
    step = case("step", "", 100.0)
    cached = case("pipeline", benchmark.CACHED, 5000.0)
    waiting = case("train", "", 90.0, waiting_share=[0.2])
    busy = case("train", "", 90.0, waiting_share=[0.01])
    assert benchmark.what_bounds(setting, [step, cached, waiting]).startswith(
        "Input bounds the speed"
    )
    text = benchmark.what_bounds(setting, [step, cached, busy])
    assert "The training step bounds the speed (input could feed 50 times as much)" in text
