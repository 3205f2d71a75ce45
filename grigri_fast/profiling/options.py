"""The options of bench and profile, checked. Loads nothing heavy."""

from pathlib import Path
from typing import Any, Literal

from ..config import TrainConfig, resolve
from ..errors import GrigriError
from ..runtime.files import StrPath
from ..runtime.units import parse_bytes

_OF_THE_STEP = ("arch", "size", "batch_size", "micro_batch_size", "activation_checkpointing")


def bench_config(*, json: StrPath | None, compile: bool, **options: Any) -> TrainConfig:
    """Return the resolved config of the training step that ``bench`` measures.

    Args:
        json: a file for the figures; its folder must exist.
        compile: whether the step is compiled.
        options: the other options of :func:`benchmark.bench`.

    Raises:
        GrigriError: if an option is wrong.
    """
    if json is not None and not Path(json).parent.is_dir():
        raise GrigriError(f"--json {json}: its folder does not exist")
    return _step_config(options, compile="on" if compile else "off")


def profile_config(
    *, estimate: bool, device_memory: str | None, snapshot: bool, **options: Any
) -> tuple[TrainConfig, int | None]:
    """Return the resolved config of the step that ``profile`` is about, and the bytes it may take.

    Args:
        estimate: from shapes alone.
        device_memory: an amount like ``4GiB``, or None.
        snapshot: also PyTorch's memory snapshot.
        options: the other options of :func:`profiler.profile`.

    Raises:
        GrigriError: if an option is wrong, or two do not go with each other.
    """
    must_fit = None if device_memory is None else parse_bytes(device_memory, "--device-memory")
    config = _step_config(options, compile="off")
    if estimate and snapshot:
        raise GrigriError("--snapshot needs a measurement; leave out --estimate")
    return config, must_fit


def _step_config(options: dict[str, Any], compile: Literal["on", "off"]) -> TrainConfig:
    """Return the resolved config of a step in which every stage is trained."""
    step = {name: options[name] for name in _OF_THE_STEP if name in options}
    step |= {"fast": options["fast"], "amp": options["amp"], "compile": compile}
    return resolve(TrainConfig(**step, freeze_stages=0))
