"""Commands about speed, memory and this machine: bench, profile, info."""

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from ..config import TrainConfig
from ..errors import GrigriError
from ..runtime import files, imports
from ..runtime.units import format_bytes
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
    passed_on,
)

if TYPE_CHECKING:
    from ..profiling.benchmark import Benchmark
    from ..profiling.profiler import Profile
    from ..profiling.timing import Case

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
        ),
    ] = None,
    data: DataOrDemoArgument = None,
    against: Annotated[
        Literal["torchvision"] | None,
        typer.Option(
            help="Also measure a plain torchvision program, in turns: its transforms in a "
            "DataLoader with as many workers as threads, and its loop (fp32; AMP on a GPU)."
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every figure to a file.")
    ] = None,
    arch: ArchOption = TrainConfig.arch,
    size: SizeOption = TrainConfig.size,
    batch_size: BatchSizeOption = TrainConfig.batch_size,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Use only N images.")] = 2000,
    fast: FastOption = True,
    compile: Annotated[bool, typer.Option(help="Use torch.compile in the step.")] = False,
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

    options = passed_on(locals()) | {"what": what or "all"}

    from ..profiling.options import bench_config

    bench_config(**options)  # a wrong option is an error before anything heavy loads

    with imports.heavy():
        from ..profiling import benchmark
        from .progress import progress

    with progress("measuring") as on_progress:
        result = benchmark.bench(**options, log=mention, on_progress=on_progress)
    show_bench(result)
    if result.exceeded:
        raise GrigriError(result.exceeded)


def show_bench(result: "Benchmark") -> None:
    """Show the table of ``grigri-fast bench``: plain text that can be pasted."""
    from ..profiling.benchmark import peak_flops_per_s

    s = result.setting
    where = result.environment.get("gpu", result.environment["cpu"])
    say(
        f"{s.config.arch} at {s.size_px} px, batch {s.batch_size}, {s.compute.amp}"
        f"{', compiled' if s.config.compile == 'on' else ''}"
        f"{'' if s.config.fast else ', --no-fast'}; {len(s.rows):,} images"
    )
    torch_version = result.environment["packages"]["torch"]
    say(f"{where}, {s.compute.threads} threads; torch {torch_version}\n")
    pairs = result.pairs()
    has_baseline = any(theirs is not None for _, theirs in pairs)
    more = ["torchvision", "ratio"] if has_baseline else []
    table = new_table("images per second", "grigri-fast", *more)
    for ours, theirs in pairs:
        cells = [_BENCH_ROWS[ours.what] + (f", {ours.how}" if ours.how else ""), _speed(ours)]
        if has_baseline:
            cells += ["-", "-"] if theirs is None else [_speed(theirs), _ratio(ours, theirs)]
        table.add_row(*cells)
    show(table)
    say()
    for ours, _ in pairs:
        if ours.what == "train":
            waited = 100 * statistics.median(ours.notes["waiting_share"])
            say(f"waiting for input: {waited:.1f} % of the time")
        if ours.what == "step":
            used = ours.median * result.train_flops
            peak = peak_flops_per_s(s.device)
            share = f", {used / peak:.0%} of the peak (MFU)" if peak else ""
            say(f"the step computes {used / 1e12:.2f} TFLOP/s{share}")
    for name, num_bytes in result.memory.items():
        say(f"{_MEMORY[name]}: {num_bytes / 2**20:,.0f} MiB")
    if result.bound:
        say(result.bound)


def _speed(case: "Case") -> str:
    low, high = min(case.images_per_s), max(case.images_per_s)
    digits = 0 if case.median >= 100 else 1
    return f"{case.median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def _ratio(ours: "Case", theirs: "Case") -> str:
    from ..profiling.timing import ratio

    median, least, greatest = ratio(ours, theirs)
    return f"{median:.2f}x ({least:.2f}-{greatest:.2f})"


def profile(
    data: DataOrDemoArgument = None,
    arch: ArchOption = TrainConfig.arch,
    size: SizeOption = TrainConfig.size,
    batch_size: BatchSizeOption = TrainConfig.batch_size,
    micro_batch_size: Annotated[int | None, typer.Option(min=2, help="As in train.")] = None,
    activation_checkpointing: Annotated[bool, typer.Option(help="As in train.")] = False,
    classes: Annotated[int, typer.Option(min=1, help="Outputs of the network.")] = 14,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Estimate for a GPU, from shapes alone.")
    ] = False,
    device_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Say whether it fits, like 4GiB.")
    ] = None,
    snapshot: Annotated[
        bool,
        typer.Option(
            "--snapshot", help="Also PyTorch's memory snapshot, for pytorch.org/memory_viz."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the folder of results.")] = Path("runs"),
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
    options = passed_on(locals())

    from ..profiling.options import profile_config

    profile_config(**options)  # a wrong option is an error before anything heavy loads

    with imports.heavy():
        from ..profiling import profiler

    show_profile(profiler.profile(**options, log=mention))


def show_profile(profile: "Profile") -> None:
    """Show where memory and time of a step go; whether it fits, if there is a size to fit."""
    usage = profile.usage
    say(f"{profile.title}, {profile.num_classes} classes\n")
    table = new_table("MiB at the peak of a step", "training", "evaluation")
    for name, is_assumed, *num_bytes in usage.memory_rows():
        cells = [one / 2**20 for one in num_bytes]
        if any(abs(cell) >= 0.05 for cell in cells):
            assumed = " (assumed)" if is_assumed else ""
            table.add_row(name + assumed, *(f"{cell:,.1f}" for cell in cells))
    table.add_section()
    totals = usage.training.total, usage.evaluation.total
    name = "in all" if usage.is_estimate else f"in all ({usage.how})"
    table.add_row(name, *(f"{total / 2**20:,.1f}" for total in totals))
    show(table)
    if profile.device_memory is not None:
        spare = profile.device_memory - max(totals)
        words = "to spare" if spare >= 0 else "too much"
        say(
            f"\n{'fits' if spare >= 0 else 'does not fit'} {format_bytes(profile.device_memory)}:"
            f" {format_bytes(max(totals))} at most, {format_bytes(abs(spare))} {words}"
        )
    if usage.seconds:
        say()
        table = new_table("time", "ms", "share of the step")
        for name, seconds, share in usage.time_rows():
            shown = "-" if share is None else f"{share:.1%}"
            table.add_row(name, f"{1000 * seconds:,.1f}", shown)
        show(table)
        say()
        table = new_table("heaviest operations", "ms per step")
        for name, seconds in usage.heaviest:
            table.add_row(escape(name), f"{1000 * seconds:,.1f}")
        show(table)
    say(f"\neverything is in {files.shown(profile.folder)}")


def info(as_json: JsonOption = False) -> None:
    """Show versions, hardware, and what would be chosen here: for bug reports.

    Nothing is measured; what --compile auto has measured before is shown.

    Example:  grigri-fast info --json
    """
    with imports.heavy():
        from ..runtime import environment

    facts = environment.info()
    if as_json:
        sys.stdout.write(files.to_json(facts))
    else:
        show_info(environment.in_words(facts))


def show_info(lines: list[tuple[str, list[str]]]) -> None:
    """Print headings and lines side by side, to be pasted into a report of a bug."""
    width = max(len(name) for name, _ in lines) + 2
    for name, texts in lines:
        for i, text in enumerate(texts):
            say(f"{'' if i else name:{width}}{text}")
