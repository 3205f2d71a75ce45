"""``grigri-fast info``: true, complete, and worth pasting into a report of a bug."""

import importlib.metadata
import json
import os
from dataclasses import replace

import pytest
import torch

from grigri_fast import __version__
from grigri_fast.runtime import compute, environment, files
from grigri_fast.training import compilation
from grigri_fast.training.compilation import Measurement


def test_it_says_what_is_so(cli) -> None:
    code, out, err = cli("info", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert found["versions"]["typer"] and found["versions"]["nvidia-dali-cuda120"]
    assert found["cpu"]["cores"] == os.cpu_count() and found["cpu"]["usable_threads"] == 1
    assert 2**20 < found["cpu"]["free_memory_bytes"] < 2**50
    assert len(found["gpus"]) == torch.cuda.device_count()
    device = compute.pick_device("auto")
    assert found["chosen"]["device"] == str(device)
    assert found["chosen"]["amp"] == compute.pick_amp("auto", device)


def test_the_text_has_all_of_it_in_lines(cli) -> None:
    code, out, _ = cli("info")
    assert code == 0
    for word in ("torch 2", "CPU", "GPU", "--amp auto", "--compile auto", "caches", "extras"):
        assert word in out
    assert f"grigri-fast {__version__}" in out


def test_what_compile_has_measured_is_shown(cli) -> None:
    here = environment.machine_name(compute.pick_device("auto")), torch.__version__
    measured = Measurement(
        *here, "resnet18", 128, 32, "bf16", 2, 0.2, compiled_step_s=0.1, compile_s=60.0
    )
    known = [
        measured,
        replace(measured, amp="fp32", compiled_step_s=0.3),
        Measurement(*here, "vgg11", 128, 32, "fp32", 2, eager_step_s=0.2),
        replace(measured, machine="another machine", torch="1.0"),
    ]
    compilation._remember(known)
    file = files.cache_folder() / "compile.json"
    file.write_text(json.dumps([*json.loads(file.read_text()), {"machine": 3}]))
    lines = [line for line in cli("info")[1].splitlines() if " px, batch " in line]
    assert len(lines) == 3
    what = "resnet18 at 128 px, batch 32, bf16, 2 threads: 200.0 ms a step, 100.0 ms compiled"
    assert f"{what}, pays after 600 steps" in lines[0]
    assert lines[1].endswith("never pays") and lines[2].endswith("does not compile here")


def test_caches_are_measured_and_homes_are_not_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "grigri-fast" / "demo").mkdir(parents=True)
    (tmp_path / "cache" / "grigri-fast" / "demo" / "a.jpg").write_bytes(b"x" * 1234)
    assert environment.info()["caches"]["~/cache/grigri-fast"] == 1234


def test_extras_are_those_whose_packages_are_all_there(monkeypatch) -> None:
    lines = [
        "torch>=2",
        'numpy>=2; extra == "one"',
        'numpy>=2; extra == "two"',
        'no-such-package-here>=2; extra == "two"',
        'pytest; extra == "dev"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert environment.extras() == {"one": True, "two": False}


@pytest.mark.parametrize(
    "capability, amp, says",
    [((8, 6), "bf16", "compute capability 8.6"), ((6, 1), "fp32", "not good at fp16")],
)
def test_the_reason_for_the_number_format_of_a_gpu(monkeypatch, capability, amp, says) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda")
    assert compute.pick_amp("auto", device) == amp
    assert says in environment._why(amp, device)
