"""Whether torch.compile pays for itself here: measured once, and remembered."""

import contextlib
import copy
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import GrigriError
from ..runtime import environment, files
from .losses import LOSSES
from .step import TrainStep

# Compiling takes longer than this, and saves less than this share of a step (17-38 s and nothing
# on the CPU of benchmarks/README.md; the rest is assumed): shorter runs need no measurement.
_LEAST_STEPS = 1000
_LEAST_COMPILE_S = 15.0
_MOST_SAVED = 0.4

_FILE = "compile.json"
_NUM_STEPS = 8  # timed of each kind, in turns of two


def pays_to_compile(
    model: nn.Module,
    *,
    arch: str,
    size_px: int,
    batch_size: int,
    num_steps: int,
    num_classes: int,
    device: torch.device,
    amp: str,
    say: Callable[[str], None],
) -> bool:
    """Return whether compiling ``model`` saves more than it costs in ``num_steps`` steps.

    A copy of the model is trained on random numbers, as it is and compiled; nothing of the run is
    touched, its random numbers neither. What was measured is remembered for this hardware, PyTorch,
    architecture, size, batch and number format. Where compiling fails, the answer is no.
    """
    parts = [
        machine(device),
        torch.__version__,
        arch,
        size_px,
        batch_size,
        amp,
        torch.get_num_threads(),
    ]
    key = " | ".join(map(str, parts))
    known = remembered()
    found = known.get(key)
    if found is None and num_steps < _LEAST_STEPS:
        return False
    if found is None:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            found = _measure(model, size_px, batch_size, num_classes, num_steps, device, amp, say)
        if found is None:
            return False
        _remember(known | {key: found})
    if found["compile_s"] is None:
        return False
    saved_s = num_steps * (found["eager_step_s"] - found["compiled_step_s"])
    return saved_s > found["compile_s"]


def machine(device: torch.device) -> str:
    """Return the name of what computes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name()


def compiled(model: nn.Module) -> nn.Module:
    """Return the model as torch.compile makes it, without a word about CUDA where there is none."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return torch.compile(model)


def _measure(
    model: nn.Module,
    size_px: int,
    batch_size: int,
    num_classes: int,
    num_steps: int,
    device: torch.device,
    amp: str,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Return seconds per step of both kinds and of compiling; None where it cannot pay."""
    shape = (batch_size, size_px, size_px, 3)
    images_NHWC = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    targets_NC = torch.randint(0, 2, (batch_size, num_classes), device=device).float()

    def stepper(is_compiled: bool) -> TrainStep:
        trial = copy.deepcopy(model).train()
        trained = [p for p in trial.parameters() if p.requires_grad]
        return TrainStep(
            trial,
            torch.optim.SGD(trained, lr=1e-4, momentum=0.9, fused=device.type == "cuda"),
            torch.amp.GradScaler(device.type, enabled=amp == "fp16"),
            LOSSES["bce"],
            device=device,
            amp=amp,
            batch_size=batch_size,
            compiled=compiled(trial) if is_compiled else None,
        )

    def seconds(step: TrainStep, num: int) -> float:
        start_s = time.perf_counter()
        for _ in range(num):
            step(images_NHWC, targets_NC)
        step.look()  # waits for the device
        return (time.perf_counter() - start_s) / num

    eager = stepper(is_compiled=False)
    seconds(eager, 4)  # warm
    eager_s = [seconds(eager, 2)]
    if num_steps * eager_s[0] * _MOST_SAVED < _LEAST_COMPILE_S:
        return None
    say("measuring once whether torch.compile pays for itself here (--compile on or off skips it)")
    other = stepper(is_compiled=True)
    compiled_s = []
    try:
        first_s = 4 * seconds(other, 4)
        for _ in range(_NUM_STEPS // 2):
            eager_s.append(seconds(eager, 2))
            compiled_s.append(seconds(other, 2))
    except Exception as e:  # there are as many kinds as there are compilers
        reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
        say(f"torch.compile does not work here ({reason}); going on without it")
        return {"eager_step_s": min(eager_s), "compiled_step_s": None, "compile_s": None}
    finally:
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    found = {
        "eager_step_s": min(eager_s),
        "compiled_step_s": min(compiled_s),
        "compile_s": max(0.0, first_s - 4 * min(compiled_s)),
    }
    say(
        f"torch.compile: {1000 * found['eager_step_s']:.1f} ms a step without,"
        f" {1000 * found['compiled_step_s']:.1f} ms with it, {found['compile_s']:.0f} s to compile"
    )
    return found


def remembered() -> dict[str, dict[str, Any]]:
    """Return what was measured before; a file that cannot be read is as good as none."""
    with contextlib.suppress(GrigriError, ValueError):
        known = json.loads(files.read_text(files.cache_folder() / _FILE))
        if isinstance(known, dict):
            return known
    return {}


def _remember(known: dict[str, dict[str, Any]]) -> None:
    with contextlib.suppress(GrigriError, OSError):
        files.cache_folder().mkdir(parents=True, exist_ok=True)
        files.write_atomic(files.cache_folder() / _FILE, json.dumps(known, indent=1) + "\n")


def measured_here(device: torch.device) -> list[dict[str, Any]]:
    """Return what ``--compile auto`` has measured on this machine with this PyTorch."""
    here = machine(device), torch.__version__
    names = ("machine", "torch", "arch", "size_px", "batch_size", "amp", "threads")
    found = []
    for key, measured in remembered().items():
        what = dict(zip(names, key.split(" | "), strict=False))
        if (what.get("machine"), what.get("torch")) == here and isinstance(measured, dict):
            found.append({k: what[k] for k in names[2:] if k in what} | measured)
    return found
