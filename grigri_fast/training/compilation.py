"""Whether torch.compile pays for itself here: measured once, and remembered."""

import contextlib
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..config import TrainConfig
from ..errors import GrigriError
from ..inference.forward import random_images
from ..models import depthwise, heads
from ..runtime import environment, files, memory
from ..runtime.compute import Compute
from . import setup
from .losses import LOSSES
from .session import Session
from .step import TrainStep

# Compiling takes longer than this, and saves less than this share of a step (17-38 s and nothing
# on the CPU of benchmarks/README.md; the rest is assumed): shorter runs need no measurement.
_LEAST_STEPS = 1000
_LEAST_COMPILE_S = 15.0
_MOST_SAVED = 0.4

_NUM_STEPS = 8  # timed of each kind, in turns of two


@dataclass(frozen=True)
class Measurement:
    """Seconds that a kind of run takes on a machine: of a step, of a compiled one, and to compile.

    The last two are None if compiling failed.
    """

    machine: str
    torch: str
    arch: str
    size_px: int
    batch_size: int
    amp: str
    threads: int
    eager_step_s: float
    freeze_stages: int = 0
    compiled_step_s: float | None = None
    compile_s: float | None = None

    def pays(self, num_steps: int) -> bool:
        """Return whether compiling saves more in ``num_steps`` steps than it costs."""
        if self.compile_s is None or self.compiled_step_s is None:
            return False
        return num_steps * (self.eager_step_s - self.compiled_step_s) > self.compile_s


def decide(
    model: nn.Module, config: TrainConfig, session: Session, num_steps: int, is_planned: bool
) -> bool:
    """Return whether a run compiles its step; ``auto``: where it saves more than it costs.

    For that, copies of the model are trained by SGD on random numbers, one as it is and one
    compiled; the run is not touched, nor are its random numbers. What was measured is remembered
    for this hardware, PyTorch, architecture, size, batch and number format. Where compiling fails,
    the answer is no.

    Args:
        model: the network, on the host.
        config: resolved, with a batch size.
        session: of the run. Several processes do not compile, even to go on with a run that did.
        num_steps: steps of the whole run.
        is_planned: whether the memory is planned by a trial; nothing is compiled in one.
    """
    if session.world.is_shared:
        return False
    if config.compile != "auto":
        return config.compile == "on"
    if is_planned or config.activation_checkpointing:
        return False
    compute, subject = session.compute, subject_of(config, session.compute)
    if depthwise.helps(model, compute.device, compute.amp):  # a compiled step goes without it
        return False
    known = remembered()
    for measured in known:
        if subject.items() <= asdict(measured).items():
            return measured.pays(num_steps)
    if num_steps < _LEAST_STEPS:
        return False
    with torch.random.fork_rng(devices=[compute.device] if compute.device.type == "cuda" else []):
        seconds = _measure(model, config, compute, num_steps, session.callback.log)
    if compute.device.type == "cuda":
        memory.release(compute.device)  # of what was measured, with its CUDA graphs
    if seconds is None:
        return False
    measured = Measurement(**subject, **seconds)
    _remember([*known, measured])
    return measured.pays(num_steps)


def subject_of(config: TrainConfig, compute: Compute) -> dict[str, Any]:
    """Return the kind of a run and its machine, for which one measurement is enough."""
    return {
        "machine": environment.machine_name(compute.device),
        "torch": str(torch.__version__),
        "arch": config.arch,
        "size_px": config.size,
        "batch_size": config.batch_size,
        "amp": compute.amp,
        "threads": compute.threads,
        "freeze_stages": config.freeze_stages,
    }


def _measure(
    model: nn.Module,
    config: TrainConfig,
    compute: Compute,
    num_steps: int,
    log: Callable[[str], None],
) -> dict[str, float | None] | None:
    """Return the seconds of a measurement; None if compiling cannot pay, so it is not tried."""
    images_NHWC = random_images(config.batch_size, config.size, compute.device)
    num_classes = len(heads.heads(model)[0][1].bias)
    shape = (config.batch_size, num_classes)
    targets_NC = torch.randint(0, 2, shape, device=compute.device).float()

    def make_step(is_compiled: bool) -> TrainStep:
        # Not the run's optimizer and loss: one measurement is for all that have the same subject.
        tried = setup.placed(copy.deepcopy(model), config, compute)
        setup.freeze(tried, config)
        setup.set_training(tried, config)
        trained = [p for p in tried.parameters() if p.requires_grad]
        on_gpu = compute.device.type == "cuda"
        return TrainStep(
            tried,
            torch.optim.SGD(trained, lr=1e-4, momentum=0.9, fused=on_gpu),
            torch.amp.GradScaler(compute.device.type, enabled=compute.amp == "fp16"),
            LOSSES["bce"],
            device=compute.device,
            amp=compute.amp,
            batch_size=config.batch_size,
            compiled=setup.compiled(tried) if is_compiled else None,
        )

    def seconds(step: TrainStep, num: int) -> float:
        start_s = time.perf_counter()
        for _ in range(num):
            step(images_NHWC, targets_NC)
        step.read_sums()  # waits for the device
        return (time.perf_counter() - start_s) / num

    eager = make_step(is_compiled=False)
    seconds(eager, 4)  # warm
    eager_s = [seconds(eager, 2)]
    if num_steps * eager_s[0] * _MOST_SAVED < _LEAST_COMPILE_S:
        return None
    log("measuring once whether torch.compile pays for itself here (--compile on or off skips it)")
    compiled, compiled_s = make_step(is_compiled=True), []
    try:
        first_s = 4 * seconds(compiled, 4)
        for _ in range(_NUM_STEPS // 2):
            eager_s.append(seconds(eager, 2))
            compiled_s.append(seconds(compiled, 2))
    except Exception as e:  # there are as many kinds as there are compilers
        reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
        log(f"torch.compile does not work here ({reason}); going on without it")
        return {"eager_step_s": min(eager_s)}
    finally:
        torch._dynamo.reset()
    eager_step_s, compiled_step_s = min(eager_s), min(compiled_s)
    compile_s = max(0.0, first_s - 4 * compiled_step_s)
    log(
        f"torch.compile: {1000 * eager_step_s:.1f} ms a step without,"
        f" {1000 * compiled_step_s:.1f} ms with it, {compile_s:.0f} s to compile"
    )
    return {
        "eager_step_s": eager_step_s,
        "compiled_step_s": compiled_step_s,
        "compile_s": compile_s,
    }


def remembered() -> list[Measurement]:
    """Return what was measured before; what cannot be read is left out."""
    known: list[Measurement] = []
    with contextlib.suppress(GrigriError, ValueError, TypeError, RecursionError):
        for entry in json.loads(files.read_text(files.cache_folder() / environment.COMPILE_TIMES)):
            known.append(Measurement(**entry))
    return known


def _remember(known: list[Measurement]) -> None:
    text = json.dumps([asdict(one) for one in known], indent=1) + "\n"
    with contextlib.suppress(GrigriError, OSError):
        files.cache_folder().mkdir(parents=True, exist_ok=True)
        files.write_atomic(files.cache_folder() / environment.COMPILE_TIMES, text)
