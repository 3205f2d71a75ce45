"""Commands about speed, memory and this machine: bench, profile, info."""

import os
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from .. import config as configs
from ..config import TrainConfig
from ..errors import GrigriError
from ..runtime import files
from ..runtime.units import format_bytes, parse_bytes
from .console import mention, new_table, say, show
from .options import (
    AmpOption,
    ArchOption,
    BatchSizeOption,
    DataOrDemoArgument,
    DeviceOption,
    FastOption,
    JsonOption,
    MemoryLimitOption,
    SizeOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from ..profiling.benchmark import Measured, Report
    from ..profiling.profiler import Profile

_BENCH_ROWS = {
    "pipeline": "input",
    "step": "training step",
    "train": "training, end to end",
    "evaluation": "evaluation",
}
_MEMORY = {
    "host": "peak memory of this process",
    "device_torch": "peak memory of PyTorch on the GPU",
    "limited": "peak memory of what --memory-limit is about",
}


def bench(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[pipeline|step|train|all]",
            help="pipeline: images without a model. step: one batch that is there already. "
            "train: both together, and evaluation. Without it: all.",
            show_default=False,
        ),
    ] = None,
    data: DataOrDemoArgument = None,
    against: Annotated[
        Literal["torchvision"] | None,
        typer.Option(
            "--against",
            help="Also measure a plain torchvision program, in turns: its transforms in a "
            "DataLoader with as many workers as threads, and its loop (fp32; AMP on a GPU).",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure to a file.")
    ] = None,
    arch: ArchOption = TrainConfig.arch,
    size: SizeOption = TrainConfig.size,
    batch_size: BatchSizeOption = TrainConfig.batch_size,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Use only N images.")] = 2000,
    fast: FastOption = True,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Use torch.compile in the step.")
    ] = False,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    memory_limit: MemoryLimitOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure how fast it is on this machine, and what limits it.

    Images per second: the median of several repeats, and the lowest and highest. Nothing else
    should run on the machine.

    Example:  grigri-fast bench all my-photos --against torchvision
    """
    if what not in (None, "pipeline", "step", "train", "all"):
        if data is not None:
            raise typer.BadParameter(f"{what!r} is not pipeline, step, train or all")
        what, data = None, what
    if json_file is not None and not json_file.parent.is_dir():
        raise GrigriError(f"--json {json_file}: its folder does not exist")
    if data is None:
        from ..data import demo

        data = str(demo.cached_folder())

    import torch

    from ..data import dataset
    from ..models import factory
    from ..profiling import benchmark
    from ..runtime import compute, environment
    from ..runtime.memory import Budget
    from .progress import progress

    factory.build(arch, 1, size)  # an error at once if the two do not go together
    place = compute.pick_device(device)
    threads = threads or compute.usable_threads()
    torch.set_num_threads(threads)
    parts = {"pipeline": ["pipeline"], "step": ["step"], "train": ["train", "evaluation"]}
    with Budget(place, memory_limit and parse_bytes(memory_limit, "--memory-limit")) as budget:
        setting = benchmark.setting_of(
            dataset.load(data).paths[:limit],
            threads,
            has_limit=budget.limit is not None,
            arch=arch,
            size_px=size,
            batch_size=batch_size,
            device=place,
            amp=compute.pick_amp("fp32" if amp == "auto" and not fast else amp, place),
            fast=fast,
            compile=compiled,
        )
        if budget.limit is not None:
            setting = benchmark.fitted(setting, budget, mention)
        with progress("measuring") as on_turn:
            report = benchmark.measure(
                setting,
                parts.get(what, benchmark.WHATS),
                against=against is not None,
                repeats=repeats,
                budget=budget,
                on_turn=on_turn,
            )
    environment = environment.describe(place, setting.amp)
    show_bench(report, environment)
    if json_file is not None:
        files.write_json(json_file, {"environment": environment, **report.to_json()})
    budget.require_within_limit()


def show_bench(report: "Report", environment: dict[str, Any]) -> None:
    """Show the table of ``grigri-fast bench``: plain text that can be pasted."""
    from ..profiling.benchmark import peak_flops_per_s, ratio

    s = report.setting
    where = environment.get("gpu", environment["cpu"])
    versions = environment["packages"]
    say(
        f"{s.arch} at {s.size_px} px, batch {s.batch_size}, {s.amp}"
        f"{', compiled' if s.compile else ''}{'' if s.fast else ', --no-fast'};"
        f" {len(s.rows):,} images"
    )
    say(f"{where}, {s.threads} threads; torch {versions['torch']}\n")
    pairs = report.pairs()
    has_usual = any(usual is not None for _, usual in pairs)
    columns = ["images per second", "grigri-fast", *(["torchvision", "ratio"] if has_usual else [])]
    table = new_table(*columns)
    for ours, usual in pairs:
        _, _, way = ours.name.partition(", ")
        cells = [_BENCH_ROWS[ours.what] + (f", {way}" if way else ""), _speed(ours)]
        if has_usual:
            cells += ["-", "-"] if usual is None else [_speed(usual), _ratio(ratio(ours, usual))]
        table.add_row(*cells)
    show(table)
    say()
    for ours, _ in pairs:
        if ours.what == "train":
            waited = 100 * statistics.median(ours.notes["waiting_share"])
            say(f"waiting for input: {waited:.1f} % of the time")
        if ours.what == "step":
            used = ours.median * report.train_flops
            peak = peak_flops_per_s(s.device)
            share = f", {used / peak:.0%} of the peak (MFU)" if peak else ""
            say(f"the step computes {used / 1e12:.2f} TFLOP/s{share}")
    for name, num_bytes in report.memory.items():
        say(f"{_MEMORY[name]}: {num_bytes / 2**20:,.0f} MiB")
    if report.bound:
        say(report.bound)


def _speed(measured: "Measured") -> str:
    low, high = min(measured.images_per_s), max(measured.images_per_s)
    digits = 0 if measured.median >= 100 else 1
    return f"{measured.median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def _ratio(of: tuple[float, float, float]) -> str:
    return f"{of[0]:.2f}x ({of[1]:.2f}-{of[2]:.2f})"


def profile(
    data: DataOrDemoArgument = None,
    arch: ArchOption = TrainConfig.arch,
    size: SizeOption = TrainConfig.size,
    batch_size: BatchSizeOption = TrainConfig.batch_size,
    micro_batch_size: Annotated[
        int | None, typer.Option("--micro-batch-size", min=2, help="As in train.")
    ] = None,
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing", help="As in train."
        ),
    ] = False,
    num_classes: Annotated[
        int, typer.Option("--classes", min=1, help="Outputs of the network.")
    ] = 14,
    estimated: Annotated[
        bool,
        typer.Option("--estimate", help="From shapes alone, for a GPU; nothing is computed."),
    ] = False,
    device_memory: Annotated[
        str | None,
        typer.Option("--device-memory", metavar="SIZE", help="Say whether it fits, like 4GiB."),
    ] = None,
    snapshot: Annotated[
        bool,
        typer.Option(
            "--snapshot", help="Also PyTorch's memory snapshot, for pytorch.org/memory_viz."
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the folder of results.")] = Path(
        "runs"
    ),
    limit: Annotated[int, typer.Option(min=1, help="Use only N images.")] = 512,
    fast: FastOption = True,
    device: DeviceOption = "auto",
    amp: AmpOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Show where memory and time go in a training step and an evaluation step.

    Writes profile.json, memory.png and, where it measures, trace.json.gz.

    Example:  grigri-fast profile my-photos --arch resnet34

    Example:  grigri-fast profile --arch wide_resnet50_2 --estimate --device-memory 4GiB
    """
    room = None if device_memory is None else parse_bytes(device_memory, "--device-memory")
    config = TrainConfig(
        data=data or "-",
        arch=arch,
        size=size,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        activation_checkpointing=activation_checkpointing,
        fast=fast,
    )
    if estimated and snapshot:
        raise GrigriError("--snapshot needs a measurement; leave out --estimate")
    if data is None and not estimated:
        from ..data import demo

        data = str(demo.cached_folder())

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler talks to stderr else
    import torch

    from ..data import dataset
    from ..models import factory
    from ..profiling import benchmark, profiler
    from ..reporting import plots
    from ..runs import run_folder as run
    from ..runtime import compute, environment
    from ..runtime.memory import Budget
    from ..training.autobatch import Plan

    factory.build(arch, 1, size)  # an error at once if the two do not go together
    config = configs.resolve(config)
    plan = Plan(batch_size, micro_batch_size or batch_size, activation_checkpointing)
    place = torch.device("cpu") if estimated else compute.pick_device(device)
    if snapshot and place.type != "cuda":
        raise GrigriError("--snapshot is of a GPU's memory, and there is none here")
    environment = environment.describe(place, amp)
    if estimated:
        amp = ("bf16" if fast else "fp32") if amp == "auto" else amp
        found = profiler.estimate(config, plan, num_classes, amp)
        folder = run.create_folder(out, f"estimate-{arch}")
    else:
        amp = compute.pick_amp("fp32" if amp == "auto" and not fast else amp, place)
        threads = threads or compute.usable_threads()
        torch.set_num_threads(threads)
        with Budget(place) as budget:
            setting = benchmark.setting_of(
                dataset.load(data).paths[:limit],
                threads,
                arch=arch,
                size_px=size,
                batch_size=batch_size,
                device=place,
                amp=amp,
                fast=fast,
                num_classes=num_classes,
            )
            folder = run.create_folder(out, f"profile-{arch}")
            found = profiler.measure(setting, config, plan, budget, folder, snapshot)
    title = f"{arch} at {size} px, {plan.in_words()}, {amp}"
    say(f"{title}, {num_classes} classes\n")
    show_profile(found, room)
    png = plots.memory(found.training.account.series, found.training.account.phases, title)
    files.write_atomic(folder / "memory.png", png)
    content = {"title": title, "environment": environment, **found.to_json()}
    files.write_json(folder / "profile.json", content)
    say(f"\neverything is in {files.shown(folder)}")


def show_profile(profile: "Profile", device_memory: int | None) -> None:
    """Show where memory and time of a step go; whether it fits, if there is a size to fit."""
    from ..profiling.profiler import ASSUMED, EVALUATION, NOT_IN_STEP

    training, evaluation = profile.training, profile.evaluation
    table = new_table("MiB at the peak of a step", "training", "evaluation")
    for name in training.rows | evaluation.rows:
        assumed = " (assumed)" if profile.is_estimate and name in ASSUMED else ""
        cells = [step.rows.get(name, 0) / 2**20 for step in (training, evaluation)]
        if any(abs(cell) >= 0.05 for cell in cells):
            table.add_row(name + assumed, *(f"{cell:,.1f}" for cell in cells))
    table.add_section()
    name = "in all" if profile.is_estimate else f"in all ({profile.how})"
    table.add_row(name, *(f"{step.total / 2**20:,.1f}" for step in (training, evaluation)))
    show(table)
    if device_memory is not None:
        peak = max(training.total, evaluation.total)
        spare = device_memory - peak
        words = "to spare" if spare >= 0 else "too much"
        say(
            f"\n{'fits' if spare >= 0 else 'does not fit'} {format_bytes(device_memory)}:"
            f" {format_bytes(peak)} at most, {format_bytes(abs(spare))} {words}"
        )
    if profile.seconds:
        say()
        table = new_table("time", "ms", "share of the step")
        step_s = sum(s for name, s in profile.seconds.items() if name not in NOT_IN_STEP)
        rows = {**profile.seconds, "training step": step_s}
        rows[EVALUATION] = rows.pop(EVALUATION)  # after it
        for name, seconds in rows.items():
            share = "-" if name in NOT_IN_STEP else f"{seconds / step_s:.1%}"
            table.add_row(name, f"{1000 * seconds:,.1f}", share)
        show(table)
        say()
        table = new_table("heaviest operations", "ms per step")
        for name, seconds in profile.heaviest:
            table.add_row(escape(name), f"{1000 * seconds:,.1f}")
        show(table)


def info(
    as_json: JsonOption = False,
) -> None:
    """Show versions, hardware, and what would be chosen here: for bug reports.

    Nothing is measured; what --compile auto has measured before is shown.

    Example:  grigri-fast info --json
    """
    from ..runtime import compute
    from ..runtime import environment as infos
    from ..training import compilation

    found = infos.info(compilation.measured_here(compute.pick_device("auto")))
    if as_json:
        sys.stdout.write(files.to_json(found))
    else:
        show_info(infos.in_words(found))


def show_info(lines: list[tuple[str, list[str]]]) -> None:
    """Print headings and lines side by side, to be pasted into a report of a bug."""
    width = max(len(name) for name, _ in lines) + 2
    for name, texts in lines:
        for i, text in enumerate(texts):
            say(f"{'' if i else name:{width}}{text}")
