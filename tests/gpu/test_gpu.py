"""What only a GPU can show, beside the CPU doing the same.

The checks that a CPU can run, too, are in tests/device_checks.py.
"""

import json
import os
import signal
import time
from pathlib import Path

import device_checks as checks
import numpy as np
import pytest
import torch
from nvidia.dali import backend

from grigri_fast.models import factory
from grigri_fast.profiling import benchmark, timing
from grigri_fast.runtime import compute, memory
from grigri_fast.runtime.memory import Budget
from grigri_fast.training import checkpointer

AMPS = ["fp32", "bf16", "fp16"]
# Of the loss; the weights may be ten times as far apart, as a share of the way that they have gone.
# Assumed: a CUDA graph may run other kernels of cuDNN than the eager step, whose sums are in
# another order; and no record says yet how far apart that is.
TOLERANCES = {"fp32": 1e-3, "bf16": 2e-2, "fp16": 2e-2}


# ------------------------------------------------------------------------------------- images


def test_decoding_equals_the_cpu(cuda: torch.device, tmp_path: Path) -> None:
    checks.check_decoding(cuda, tmp_path, 64)


def test_what_pillow_decodes_is_the_same_on_the_gpu(cuda: torch.device, tmp_path: Path) -> None:
    checks.check_what_pillow_decodes(cuda, tmp_path)


def test_warping_equals_the_cpu(cuda: torch.device, tmp_path: Path) -> None:
    checks.check_warping(cuda, tmp_path)


def test_rows_and_images_stay_together_under_load(cuda: torch.device, tmp_path: Path) -> None:
    checks.check_rows_and_images(cuda, tmp_path, num_epochs=5, side=4096)


@pytest.mark.parametrize("place", ["ram", "device"])
def test_the_cache_gives_the_same_pixels(cuda: torch.device, tmp_path: Path, place: str) -> None:
    checks.check_cache(cuda, tmp_path, place)


def test_a_bad_file_costs_itself_alone(cuda: torch.device, tmp_path: Path) -> None:
    checks.check_bad_files(cuda, tmp_path)


def test_batches_that_are_kept_stay_as_they_are(cuda: torch.device, tmp_path: Path) -> None:
    """DALI does not write to a batch's memory again while the batch is there."""
    paths = checks.photograph_files(tmp_path, 64)
    loader = checks.loader_on(cuda, paths, 96)
    kept, copies = [], []
    for epoch in (1, 2, 3):
        for batch in loader.train_epoch(np.arange(64), seed=0, epoch=epoch, augment=True):
            kept.append(batch.images_NHWC)
            copies.append(batch.images_NHWC.clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_an_epoch_that_is_left_harms_no_other(cuda: torch.device, tmp_path: Path) -> None:
    paths = checks.photograph_files(tmp_path, 64)
    rows = np.arange(64)
    expected = checks.images_of(checks.loader_on(cuda, paths, 96).eval_epoch(rows))
    loader = checks.loader_on(cuda, paths, 96)
    for num in (0, 1, 2):
        batches = loader.train_epoch(rows, seed=0, epoch=num, augment=True)
        for _ in range(num):
            next(batches)
        batches.close()
        assert np.array_equal(checks.images_of(loader.eval_epoch(rows)), expected)
    loader.close()


# -------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("amp", AMPS)
@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
def test_the_cuda_graph_makes_the_steps_that_eager_makes(
    cuda: torch.device, amp: str, optimizer: str
) -> None:
    torch.manual_seed(0)
    network = factory.build("resnet18", 3, 32)
    checks.check_step(cuda, amp, optimizer, TOLERANCES[amp], network, 32)


def test_a_network_that_cannot_be_captured_is_trained_without(cuda: torch.device) -> None:
    checks.check_a_network_that_cannot_be_captured(cuda)


@pytest.mark.parametrize("amp", ["auto", *AMPS])
def test_training_steps_under_amp_lower_the_loss(cuda: torch.device, amp: str) -> None:
    checks.check_amp(cuda, compute.pick_amp(amp, cuda), "resnet18")


def test_what_is_drawn_is_the_same_on_the_gpu(cuda: torch.device) -> None:
    checks.check_what_is_drawn(cuda)


# ------------------------------------------------------------------------------------- memory


def test_memory_that_runs_out_is_known_as_such(cuda: torch.device) -> None:
    checks.check_out_of_memory(cuda)


def test_a_cap_ends_with_its_run(cuda: torch.device) -> None:
    checks.check_cap(cuda)


def test_the_meter_sees_what_is_not_pytorchs(cuda: torch.device) -> None:
    with Budget(cuda) as budget:
        before = budget.sample()
        graph = checks.random_numbers(
            on="gpu", side=2**13, batch_size=1, num_threads=1, device_id=cuda.index
        )
        graph.build()
        graph.run()
        assert budget.sample() - before >= 4 * 2**26
        del graph
        backend.ReleaseUnusedMemory()
        memory.release(cuda)


@pytest.mark.parametrize("limit", ["4GiB", "1500MiB"])
def test_a_memory_limit_holds(cuda: torch.device, cli, photos: Path, tmp_path, limit: str) -> None:
    words = ["--arch=resnet34", "--size=224", "--epochs=2", "--batch-size=16"]
    peak = checks.check_memory_limit(cuda, cli, photos, tmp_path, limit, *words)
    assert peak or limit != "4GiB"  # CUDA's context alone may be a third of the smaller one


def test_profile_explains_the_memory_of_the_gpu(
    cuda: torch.device, cli, photos: Path, tmp_path: Path
) -> None:
    words = ["--arch=resnet18", "--size=64", "--batch-size=8", "--snapshot", "--out", tmp_path]
    code, out, err = cli("profile", photos, *words)
    assert (code, err) == (0, "") and "CUDA context" in out
    found = json.loads((tmp_path / "profile-resnet18" / "profile.json").read_text())
    assert (tmp_path / "profile-resnet18" / "snapshot.pickle").is_file()
    training = found["training"]
    assert abs(training["bytes"]["unexplained"]) < 0.1 * training["total_bytes"]


# ---------------------------------------------------------------------------------- trainings

SMALL = ["--arch=resnet18", *checks.TRAINED]
DRAWN = ["--color=0.3", "--erasing=0.4", "--mixup=0.4", "--cutmix=0.5", "--label-smoothing=0.1"]
DRAWN += ["--sampler=balanced", "--size=48", "--start-size=32", "--test-size=64"]


@pytest.mark.parametrize(
    "options", [[], ["--recipe=best"], ["--recipe=best", "--optimizer=sgd", *DRAWN]], ids=str
)
def test_the_command_trains_on_the_gpu(
    cuda: torch.device, cli, photos: Path, tmp_path: Path, options: list[str]
) -> None:
    code, out, err = cli("train", photos, *SMALL, *options, "--out", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert "on cuda" in out
    run = tmp_path / "runs" / "photos-resnet18"
    assert cli("eval", run)[0] == 0
    assert cli("predict", run, photos / "images", "--out", tmp_path / "p.csv")[0] == 0


@pytest.mark.parametrize("cache", ["off", "ram", "device"])
def test_two_trainings_are_nearly_equal(
    cuda: torch.device, cli, photos: Path, tmp_path: Path, cache: str
) -> None:
    """Not bit for bit: some of cuDNN's gradients add up in an order that is not fixed."""
    words = ["resnet18", 0.02, f"--cache={cache}"]
    checks.check_two_trainings(cuda, cli, photos, tmp_path, *words)


def test_the_host_waits_for_nothing_in_a_step(cuda: torch.device, tmp_path: Path) -> None:
    """PyTorch raises where the host would wait for the device: in the steps after the capture."""
    from grigri_fast.config import TrainConfig
    from grigri_fast.profiling.setting import Setting

    paths = checks.photograph_files(tmp_path, 64)
    config = TrainConfig(arch="resnet18", size=64, batch_size=16, weights="none", recipe="best")
    s = Setting.of(paths, config, compute.Compute.resolve())
    _, step = benchmark.make_step(s)
    targets_NC = s.targets()
    images_NHWC = torch.zeros(16, 64, 64, 3, dtype=torch.uint8, device=cuda)
    for _ in range(6):
        step(images_NHWC, targets_NC[:16])
    timing.wait_for(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(images_NHWC, targets_NC[:16])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.num_graphs == 1 and step.read_sums().num_images == 9 * 16


def test_a_stopped_run_goes_on_on_the_gpu(
    cuda: torch.device, cli, photos: Path, tmp_path, monkeypatch
) -> None:
    is_due, steps = checkpointer.Checkpointer.is_due, []

    def stopping(self) -> bool:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return is_due(self)

    monkeypatch.setattr(checkpointer.Checkpointer, "is_due", stopping)
    for amp in ("bf16", "fp16"):
        steps.clear()
        options = [*SMALL, f"--amp={amp}", "--out", tmp_path, f"--name={amp}"]
        code, _, err = cli("train", photos, *options)
        assert code == 143 and "--resume" in err
        code, out, err = cli("train", "--resume", tmp_path / amp)
        assert (code, err) == (0, "") and "after 3 of its 5 steps" in out
        assert (tmp_path / amp / "summary.json").is_file()
