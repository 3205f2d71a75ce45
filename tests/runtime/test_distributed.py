"""Several processes that train together on CPUs with gloo.

torchrun really starts them where they end before their time; where it has no part, they are forked.

Networks here have no BatchNorm, and dropout is off where a curve is compared with that of one
process: then the two differ by rounding alone.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import parts, results, run_of, start, tensors, wait_for
from small_set import write_photos
from warm_process import WarmProcess

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.errors import BetweenStepsError, GrigriError
from grigri_fast.pipeline import batching, cache, check
from grigri_fast.runs import run_folder, training_state
from grigri_fast.runtime import distributed, signals
from grigri_fast.runtime.distributed import World
from grigri_fast.training import collectives, compilation

SMALL = [
    *("--arch=squeezenet1_1", "--weights=none", "--recipe=report", "--size=32", "--lr=0.02"),
    *("--epochs=3", "--batch-size=12", "--amp=fp32", "--threads=1", "--cache=off"),
]  # an epoch of 38 images: 12, 12, 12 and 2, of which the second process has none

# What a process does beside the command; {} is code of a test's own.
PROGRAM = """
import os, pathlib, signal, sys, time
import torch
from grigri_fast.pipeline import loader as pipeline
from grigri_fast.training.step import TrainStep
rank = int(os.environ.get("RANK", 0))
torch.nn.functional.dropout = lambda x, *args, **options: x
{}
"""
# Rows of each epoch into a file for each process; a file turns bad before the second epoch.
RECORDED = """
train_epoch = pipeline.ImageLoader.train_epoch
def recorded(self, *args, **options):
    bad = pathlib.Path(os.environ["TURNS_BAD"])
    if options["epoch"] == 2:
        bad.write_bytes(b"gone")
    for batch in train_epoch(self, *args, **options):
        rows = " ".join(map(str, [options["epoch"], *batch.rows_N.tolist()]))
        with open(f"{os.environ['ROWS']}-{rank}", "a") as file:
            print(rows, file=file)
        yield batch
pipeline.ImageLoader.train_epoch = recorded
"""
# Something happens in a step of one process.
IN_A_STEP = """
make = TrainStep.__call__
def step(self, *args):
    if rank == {rank} and self.number + 1 == {number}:
        {happens}
    return make(self, *args)
TrainStep.__call__ = step
"""


def torchrun(tmp_path: Path, more: str, *words: object) -> WarmProcess:
    """Start a command in two processes of torchrun, with code before it.

    The two import all that they need; torchrun itself has it already.
    """
    program = tmp_path / "program.py"
    program.write_text(f"{PROGRAM.format(more)}\nfrom grigri_fast.cli.main import entry\nentry()\n")
    args = [str(word) for word in ("--nproc-per-node", 2, program, *words)]
    return start(program=f"from torch.distributed.run import main\nraise SystemExit(main({args}))")


def alone(more: str, *words: object) -> tuple[int, str, str]:
    """Run a command in one process, with code before it; return as :func:`launched` does."""
    process = start(*words, program=PROGRAM.format(more))
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def together(more: str, *words: object) -> tuple[int, str, str]:
    """Run a command in two processes that find each other as those of torchrun do.

    They have what torchrun puts into their environment, and its patience: they end by themselves.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    processes = []
    for rank in range(2):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items():
                patch.setenv(name, str(value))
            processes.append(start(*words, program=PROGRAM.format(more)))
    with ThreadPoolExecutor() as readers:
        texts = list(readers.map(lambda p: p.communicate(timeout=280), processes))
    code = max(process.returncode for process in processes)
    return code, "".join(out for out, _ in texts), "".join(err for _, err in texts)


@contextlib.contextmanager
def _ended(process: WarmProcess) -> Iterator[WarmProcess]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def launched(tmp_path: Path, more: str, *words: object) -> tuple[int, str, str]:
    """Run a command in two processes of torchrun; return exit code, stdout and stderr."""
    with _ended(torchrun(tmp_path, more, *words)) as process:
        out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def ours(err: str) -> list[str]:
    """Return the lines on stderr that are not torchrun's."""
    starts = ("error: ", "rank ", "interrupted", "ended by ")
    return [line for line in err.splitlines() if line.startswith(starts)]


def assert_same_curve(a: Path, b: Path) -> None:
    """Compare every score of every epoch and the last weights, but for rounding."""
    assert len(results(a)) == len(results(b)) == 3
    for row, other in zip(results(a), results(b), strict=True):
        for key in row:
            if key not in ("images_per_s", "seconds"):
                assert row[key] == pytest.approx(other[key], rel=2e-4, abs=1e-6), key
    other = tensors(b)
    for name, tensor in tensors(a).items():
        torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_make_the_curve_of_one_and_see_each_image_once(
    tmp_path: Path, monkeypatch
) -> None:
    """Also around a file that turns bad while they train."""
    folders = []
    for num in (1, 2):
        photos = write_photos(tmp_path / str(num) / "photos")
        options = [*SMALL, "--max-bad=0.1", "--out", tmp_path / str(num)]
        # Image 1 is in the training part; the split is the same for both.
        monkeypatch.setenv("ROWS", str(tmp_path / f"rows-of-{num}"))
        monkeypatch.setenv("TURNS_BAD", str(photos / "images" / "im1.jpg"))
        run = alone if num == 1 else together
        code, out, err = run(RECORDED, "train", photos, *options)
        assert code == 0, err
        folders.append(run_of(out))
        assert out.count("micro-F1") == 1 and ours(err) == []
    one, two = folders
    assert "im1.jpg" in parts(one)["train"] and parts(one) == parts(two)
    assert (one / run_folder.QUARANTINE).is_file() and (two / run_folder.QUARANTINE).is_file()
    assert_same_curve(one, two)
    assert [p.name for p in two.parent.iterdir() if p.name != "photos"] == [two.name]
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}

    seen = {num: rows_by_epoch(tmp_path, num) for num in (1, 2)}
    names = {int(name.removeprefix("im").removesuffix(".jpg")) - 1 for name in parts(one)["train"]}
    for epoch in (1, 2, 3):
        rows = [row for of_process in seen[2] for row in of_process.get(epoch, [])]
        assert len(rows) == len(set(rows))
        assert set(rows) == (names if epoch == 1 else names - {0})
        assert sorted(rows) == sorted(seen[1][0][epoch])
        assert min(len(of_process[epoch]) for of_process in seen[2]) >= 15  # both work


def rows_by_epoch(folder: Path, num: int) -> list[dict[int, list[int]]]:
    """Return for each process the rows of each epoch."""
    found = []
    for rank in range(num):
        of_process: dict[int, list[int]] = {}
        for line in (folder / f"rows-of-{num}-{rank}").read_text().splitlines():
            epoch, *rows = map(int, line.split())
            of_process.setdefault(epoch, []).extend(rows)
        found.append(of_process)
    return found


# ------------------------------------------------------------------------------ going on


@pytest.fixture(scope="module")
def whole(photos_once: Path, tmp_path_factory) -> Path:
    """Return a run by one process that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = alone("", "train", photos_once, *SMALL, "--out", folder)
    assert code == 0, err
    return run_of(out)


def advice(folder: Path) -> str:
    return f"go on with: grigri-fast train --resume {folder}"


def stopped(photos: Path, tmp_path: Path, num: int, rank: int, number: int) -> int:
    """Start a training that ends by a SIGTERM to one of ``num`` processes; return the exit code."""
    happens = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.5)"
    stopping = IN_A_STEP.format(rank=rank, number=number, happens=happens)
    words = ["train", photos, *SMALL, "--out", tmp_path, "--name=run"]
    code, _, err = alone(stopping, *words) if num == 1 else launched(tmp_path, stopping, *words)
    assert ours(err) == [f"ended by SIGTERM; {advice(tmp_path / 'run')}"]
    return code


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_process_goes_on_as_two_and_these_as_one(
    photos_once: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert stopped(photos_once, tmp_path, num=1, rank=0, number=2) == 143

    slow = IN_A_STEP.format(rank=1, number="max(4, self.number + 1)", happens="time.sleep(0.7)")
    with _ended(torchrun(tmp_path, slow, "train", "--resume", folder)) as process:
        wait_for(folder / run_folder.RESULTS, process)
        process.send_signal(signal.SIGTERM)  # to torchrun
        out, err = process.communicate(timeout=120)
    assert "after 2 of its 4 steps" in out
    assert ours(err) == [f"ended by SIGTERM; {advice(folder)}"]
    progress = training_state.load(folder / run_folder.RESUME).progress
    assert 2 <= progress.epoch <= 3

    code, _, err = alone("", "train", "--resume", folder)
    assert (code, ours(err)) == (0, [])
    assert_same_curve(folder, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    photos_once: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert stopped(photos_once, tmp_path, num=2, rank=1, number=6) != 0
    progress = training_state.load(folder / run_folder.RESUME).progress
    assert (progress.epoch, progress.batches, progress.num_seen) == (2, 2, 24)
    code, out, err = together("", "train", "--resume", folder)
    assert (code, ours(err)) == (0, []) and "after 2 of its 4 steps" in out
    assert_same_curve(folder, whole)


# ------------------------------------------------------------------------------- errors

BREAKS = {
    # (what happens in one process, what is said)
    "killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        ["error: another process of this training has ended ("],
    ),
    "out of memory": (
        "raise RuntimeError('cannot allocate memory')",
        ["rank 1: error: out of memory: train with a smaller --batch-size than 12"],
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", BREAKS)
def test_when_one_process_fails_all_end_and_one_line_says_why(
    photos_once: Path, tmp_path: Path, what: str
) -> None:
    happens, said = BREAKS[what]
    breaking = IN_A_STEP.format(rank=1, number=6, happens=happens)
    words = ["train", photos_once, *SMALL, "--out", tmp_path, "--name=run"]
    start_s = time.monotonic()
    code, _, err = launched(tmp_path, breaking, *words)
    assert time.monotonic() - start_s < 250  # none waits for the others' half an hour
    assert code != 0
    # Who notices a kill by gloo leaves the word to torchrun; who was first told to end by torchrun,
    # as a process that computes for longer, says a line.
    if ours(err) or what != "killed":
        assert [line[: len(said[0])] for line in ours(err)] == said
    assert "[rank" not in err  # of a traceback
    assert all(advice(tmp_path / "run") in line for line in ours(err))
    assert training_state.load(tmp_path / "run" / run_folder.RESUME).progress.epoch == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_all_find_wrong_is_said_once(tmp_path: Path, photos_once: Path) -> None:
    words = ["train", photos_once, *SMALL, "--batch-size=3", "--out", tmp_path / "runs"]
    code, out, err = launched(tmp_path, "", *words)
    assert code != 0 and out == ""
    assert len(ours(err)) == 1 and "--batch-size 3 is too small for 2 processes" in ours(err)[0]
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------- the step

STEPS = """
import copy, torch
from torch import nn
from grigri_fast.models import factory, normalize
from grigri_fast.runtime import distributed
from grigri_fast.runtime.distributed import World
from grigri_fast.training.losses import LOSSES
from grigri_fast.pipeline.batching import part_of_rank
from grigri_fast.training.step import TrainStep
import numpy as np

torch.set_num_threads(1)
world, cpu = World.from_environment(), torch.device("cpu")

def step_of(model, world, micro_batch_size=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    options = dict(device=cpu, amp="fp32", batch_size=16, micro_batch_size=micro_batch_size)
    replica = distributed.replicate(model, world, cpu).train()
    step = TrainStep(replica, optimizer, scaler, LOSSES["bce"], world=world, **options)
    step.start_epoch([], 0, 0)
    return step

with distributed.process_group(world, cpu):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    one, ours = copy.deepcopy(net), copy.deepcopy(net)
    if world.rank:
        for tensor in ours.state_dict().values():
            tensor.zero_()  # the first one's weights and statistics count
    # BatchNorm in one process that takes micro-batches sees the same images together.
    alone, shared = step_of(one, distributed.SINGLE_PROCESS, 8), step_of(ours, world)
    for n in (16, 16, 13, 3, 16, 16):
        images = torch.randint(0, 256, (n, 8, 8, 3), dtype=torch.uint8)
        targets = (torch.rand(n, 3) < 0.4).float()
        if alone.number == 4:
            targets[-1] = torch.inf  # in one part only; all leave the step out
        parts = [torch.from_numpy(part_of_rank(np.arange(n), r, world.size)) for r in range(2)]
        own, expected = parts[world.rank], torch.zeros(2, 4)
        for part in parts:
            if len(part):  # running statistics: the mean over all images
                other = copy.deepcopy(ours).train()
                other(normalize.normalize(images[part]))
                statistics = torch.stack([other[1].running_mean, other[1].running_var])
                expected += statistics * len(part) / n
        alone(images, targets)
        shared(images[own], targets[own], n)
        found = torch.stack([ours[1].running_mean, ours[1].running_var])
        torch.testing.assert_close(found, expected.detach())
        for a, b in zip(one.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    a, b = alone.read_sums(), shared.read_sums()
    assert (a.num_images, a.num_skipped, a.bad_step) == (64, 1, 5), a
    assert a[1:6] == b[1:6] and a[6:9] == b[6:9], (a, b)
    torch.testing.assert_close(a.loss, b.loss, rtol=1e-5, atol=0.0)
    for state in world.all_gather_object({k: v.double() for k, v in ours.state_dict().items()}):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(state[name], tensor.double()), name  # the same in all
    # Sizes, and what each of several gets.
    assert world.all_gather(world.rank, 7) == [[0, 7], [1, 7]]
    assert world.from_first(lambda: world.rank) == 0
    assert world.gather_object(world.rank) == ([0, 1] if world.is_first else [])
del shared  # it holds the process group, whose threads must end before the interpreter does
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_step_of_two_processes_is_that_of_one() -> None:
    """Batches of which one process has less or nothing, and one that is not finite, included."""
    code, out, err = together(STEPS, "--version")
    assert code == 0 and out.count("grigri-fast") == 2, err


# ------------------------------------------------------------- without starting processes


def being(monkeypatch, rank: int, size: int) -> None:
    """Let this process believe that it is one of several."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))


def test_without_torchrun_it_is_alone(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # of a scheduler
    assert World.from_environment() == distributed.SINGLE_PROCESS
    assert not distributed.SINGLE_PROCESS.is_shared and distributed.SINGLE_PROCESS.is_first
    being(monkeypatch, 2, 4)
    assert World.from_environment() == World(2, 2, 4, 4)


@pytest.mark.parametrize("num_images", range(2, 20))
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_are_the_batch_and_none_has_a_single_image(num_images: int, size: int) -> None:
    rows = np.random.default_rng(0).permutation(num_images)
    found = [batching.part_of_rank(rows, rank, size) for rank in range(size)]
    assert np.array_equal(np.concatenate(found), rows)
    assert all(len(part) != 1 for part in found) and len(found[0])
    assert max(map(len, found)) - min(len(p) for p in found if len(p)) <= 1


def test_what_several_have_checked_is_put_together() -> None:
    paths = [Path(f"{i}.jpg") for i in range(4)]
    own = [
        check.check_images(paths, np.arange(4)[i::2], threads=1, max_pixels=10**8) for i in range(2)
    ]
    found = check.merge(own)
    assert list(found.bad) == [0, 1, 2, 3] and (found.crc32_N == -1).all()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--batch-size=auto"], "--batch-size auto is for one process"),
        (["--batch-size=5"], "at least 2 images each: start at most 2"),
        (["--memory-limit=4GiB"], "--memory-limit is for one process"),
        (["--mixup=0.2"], "--mixup is for one process"),
        (["--cutmix=0.2"], "--cutmix is for one process"),
        (["--compile=on"], "--compile on is for one process"),
    ],
    ids=str,
)
def test_options_for_one_process_are_refused(
    cli, photos_once: Path, tmp_path: Path, monkeypatch, options: list[str], said: str
) -> None:
    being(monkeypatch, 0, 3)
    words = ["train", photos_once, *SMALL, *options, "--out", tmp_path / "runs"]
    code, out, err = cli(*words)
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_compiled_goes_on_without() -> None:
    config = resolve(TrainConfig(data="-", weights="none", compile="on"))
    session = SimpleNamespace(world=World(0, 0, 2, 2))
    collectives.require_shareable(config, session.world, resumed=True)
    assert not compilation.decide(None, config, session, 10**9, is_planned=False)


def test_other_commands_are_for_one_process(cli, photos_once: Path, monkeypatch) -> None:
    being(monkeypatch, 0, 2)
    for words in (["data", "check", photos_once], ["tune", photos_once], ["eval", "runs/x"]):
        code, out, err = cli(*words)
        assert (code, out) == (1, "") and "is for one process" in err


def test_another_than_the_first_waits_for_it_and_then_says_which_it_is(
    cli, photos_once: Path, monkeypatch
) -> None:
    being(monkeypatch, 1, 2)
    waited = []
    monkeypatch.setattr(distributed.signals, "wait_for_end", lambda *args: waited.append(args))
    code, _, err = cli("train", photos_once, "--batch-size=3")
    assert code == 1 and err.startswith("rank 1: error: --batch-size 3 is too small")
    assert waited == [(1, distributed._STARTED_WITHIN_S)]


def test_more_processes_than_gpus_are_one_line(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GrigriError, match="2 processes on a machine with 1 GPU"):
        distributed.device_of_process(World(0, 0, 2, 2), torch.device("cuda"))
    cpu = torch.device("cpu")
    assert distributed.device_of_process(World(1, 1, 2, 2), cpu) == cpu


def test_two_share_the_memory_for_kept_images() -> None:
    found = check.ImageCheck(np.full((1000, 2), 10_000), np.zeros(1000, dtype=np.int64), {}, 10**9)
    cpu = torch.device("cpu")
    one, two = (cache.plan_cache("ram", found, 10_000, cpu, None, n) for n in (1, 2))
    assert two.capacity_bytes == pytest.approx(one.capacity_bytes / 2, rel=0.1)


@pytest.mark.parametrize("name", ["memory_limit", "mixup"])
def test_a_run_for_one_process_is_resumed_by_one(name: str) -> None:
    config = resolve(TrainConfig(data="-", **{name: {"memory_limit": "4GiB"}.get(name, 0.2)}))
    with pytest.raises(GrigriError, match="go on with this run in one process"):
        collectives.require_shareable(config, World(0, 0, 2, 2), resumed=True)


def test_a_disk_that_hangs_for_one_process_ends_all(monkeypatch) -> None:
    """What each of two is told stands in for the other."""
    error = "no images for 600 s"
    monkeypatch.setattr(World, "all_gather", lambda self, *own: [list(own), [4, 0, 1]])
    monkeypatch.setattr(World, "all_gather_object", lambda self, own: [own, ({}, [], error)])
    batch = batching.Batch(torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.arange(4), 1)
    turns = collectives.in_step((b for b in [batch]), World(0, 0, 2, 2), signals.Stop())
    with pytest.raises(BetweenStepsError, match=error):
        next(turns)


def test_all_stop_after_what_all_were_told(monkeypatch) -> None:
    """A signal that comes to this process while they talk is for the next time."""
    stop = signals.Stop()

    def agree(self, *own: int) -> list[list[int]]:
        stop.signum = signal.SIGTERM
        return [list(own), [4, 0, 0]]

    monkeypatch.setattr(World, "all_gather", agree)
    batch = batching.Batch(torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.arange(4), 1)
    turns = collectives.in_step((b for b in [batch] * 2), World(0, 0, 2, 2), stop)
    assert next(turns).num_images == 8
    assert list(turns) == []
