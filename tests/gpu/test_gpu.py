"""What only a GPU can show, beside the CPU doing the same."""

import copy
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import ODD, SIDE
from PIL import Image

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import factory, normalize
from grigri_fast.pipeline.cache import CachePlan
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.loader import ImageLoader
from grigri_fast.runtime import compute
from grigri_fast.runtime.units import parse_bytes
from grigri_fast.training import checkpointer, optim
from grigri_fast.training.augment import Augmentation
from grigri_fast.training.losses import LOSSES
from grigri_fast.training.step import TrainStep


def loader_on(device: torch.device, paths: list[Path], size_px: int, **options) -> ImageLoader:
    found = check_images(paths, threads=2, max_pixels=10**8)
    settings = {"size_px": size_px, "batch_size": 16, "device": device, "threads": 2}
    return ImageLoader(paths, found, **settings, **options)


def images_of(batches) -> np.ndarray:
    return np.concatenate([b.images_NHWC.cpu().numpy() for b in batches]).astype(int)


def test_decoding_equals_the_cpu(cuda: torch.device, photograph_files: list[Path]) -> None:
    rows = np.arange(len(photograph_files))
    size_px = 128  # the files' own size: the map is the identity, so decoding alone is compared
    on_gpu, on_cpu = (
        images_of(loader_on(device, photograph_files, size_px).eval_epoch(rows))
        for device in (cuda, torch.device("cpu"))
    )
    difference = np.abs(on_gpu - on_cpu)
    assert difference.mean() < 0.5  # nvJPEG's inverse DCT rounds otherwise than libjpeg-turbo's
    assert difference.max() <= 8


def test_what_pillow_decodes_is_the_same_on_the_gpu(cuda: torch.device, tmp_path: Path) -> None:
    for name, (content, _, _) in ODD.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in ODD]
    rows = np.array(sorted(check_images(paths, threads=2, max_pixels=10**8).by_pillow))
    on_gpu, on_cpu = (
        images_of(loader_on(device, paths, SIDE).eval_epoch(rows))
        for device in (cuda, torch.device("cpu"))
    )
    assert len(rows) > 10 and np.abs(on_gpu - on_cpu).max() <= 1


def test_warping_equals_the_cpu(cuda: torch.device, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(20)]  # lossless: warping alone is compared
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).integers(0, 256, (60 + 9 * i, 200 - 5 * i, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
    for size_px in (96, 32):  # without and with shrinking first
        on_gpu, on_cpu = (
            images_of(
                loader_on(device, paths, size_px).train_epoch(
                    np.arange(20), seed=0, epoch=1, augment=True
                )
            )
            for device in (cuda, torch.device("cpu"))
        )
        assert np.abs(on_gpu - on_cpu).max() <= (1 if size_px == 96 else 2)


def test_rows_and_images_stay_together_under_load(cuda: torch.device, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(250)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 40), (i, i, i)).save(path)
    loader = loader_on(cuda, paths, 32)
    weights = torch.randn(4096, 4096, device=cuda)
    for epoch in range(5):
        for batch in loader.train_epoch(np.arange(250), seed=0, epoch=epoch, augment=True):
            weights = torch.tanh(weights @ weights)  # the device is busy while images arrive
            shown = batch.images_NHWC.float().mean((1, 2, 3)).round().long()
            assert (shown == batch.rows_N).all()


@pytest.mark.parametrize("place", ["ram", "device"])
def test_the_cache_gives_the_same_pixels(
    cuda: torch.device, photograph_files: list[Path], place: str
) -> None:
    rows = np.arange(len(photograph_files))
    cached = loader_on(cuda, photograph_files, 96, cache=CachePlan(place, 0, 10_000_000))
    plain = loader_on(cuda, photograph_files, 96)
    for epoch in (1, 2, 3):  # filled in the first
        options = {"seed": 0, "epoch": epoch, "augment": True}
        a, b = (images_of(loader.train_epoch(rows, **options)) for loader in (cached, plain))
        assert np.array_equal(a, b)


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_the_cuda_graph_makes_the_steps_that_eager_makes(
    cuda: torch.device, amp: str, optimizer: str
) -> None:
    """Rates that change, a smaller batch and a step that is not finite included."""
    torch.manual_seed(0)
    first = factory.build("resnet18", 3, 32).to(cuda, memory_format=torch.channels_last).train()
    rng = torch.Generator(device=cuda).manual_seed(0)
    config = resolve(TrainConfig(data="-", optimizer=optimizer, lr=0.01))
    seen = []
    for batch_size in (16, 99):  # of 99 no batch is full, so that no graph is made
        model = copy.deepcopy(first)
        found = optim.make_optimizer(config, model.parameters())
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, enabled=amp == "fp16")
        step = TrainStep(
            model, found, scaler, LOSSES["bce"], device=cuda, amp=amp, batch_size=batch_size
        )
        step.start_epoch([], 0, 0)
        rng.manual_seed(0)
        stream = torch.cuda.Stream(cuda)  # as in train: a capture is not for the default stream
        with torch.cuda.stream(stream):
            for i in range(12):
                n = 7 if i == 8 else 16
                images_NHWC = torch.randint(0, 256, (n, 32, 32, 3), generator=rng, device=cuda)
                targets_NC = (torch.rand(n, 3, generator=rng, device=cuda) < 0.5).float()
                if i == 6:
                    targets_NC *= torch.inf
                optim.set_lr_and_momentum(found, 0.001 * (i + 1), 0.95 - 0.01 * i)
                step(images_NHWC.to(torch.uint8), targets_NC)
        stream.synchronize()
        assert (step._graph is not None) == (batch_size == 16)
        seen.append((step.read_sums(), [p.detach().clone() for p in model.parameters()]))
    (a, weights_a), (b, weights_b) = seen
    assert (a.num_images, a.num_skipped, a.bad_step) == (11 * 16 - 9, 1, 7)
    assert (b.num_images, b.num_skipped, b.bad_step) == (11 * 16 - 9, 1, 7)
    assert a.loss == pytest.approx(b.loss, rel=1e-3 if amp == "fp32" else 2e-2)
    moved = sum((w - p).norm() for w, p in zip(weights_b, first.parameters(), strict=True))
    apart = sum((w - v).norm() for w, v in zip(weights_a, weights_b, strict=True))
    assert apart < (0.01 if amp == "fp32" else 0.2) * moved


@pytest.mark.parametrize("amp", ["auto", "fp32", "fp16", "bf16"])
def test_training_steps_under_amp_lower_the_loss(cuda: torch.device, amp: str) -> None:
    torch.manual_seed(0)
    amp = compute.pick_amp(amp, cuda)
    model = factory.build("resnet18", 3, 64).to(cuda, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda", enabled=amp == "fp16")
    images_NHWC = torch.randint(0, 256, (16, 64, 64, 3), dtype=torch.uint8, device=cuda)
    targets_NC = (torch.rand(16, 3, device=cuda) < 0.5).float()
    losses = []
    for _ in range(20):
        with compute.autocast(cuda, amp):
            inputs_NCHW = normalize.normalize(images_NHWC)
            logits_NC = model(inputs_NCHW)
        assert inputs_NCHW.is_contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_NC.float(), targets_NC)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]


def test_a_graph_is_captured_from_the_default_stream_too(cuda: torch.device) -> None:
    model = factory.build("resnet18", 3, 32).to(cuda, memory_format=torch.channels_last).train()
    optimizer = optim.make_optimizer(resolve(TrainConfig(data="-")), model.parameters())
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    step = TrainStep(model, optimizer, scaler, LOSSES["bce"], device=cuda, amp="bf16", batch_size=8)
    images_NHWC = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, device=cuda)
    for _ in range(8):
        step(images_NHWC, torch.zeros(8, 3, device=cuda))
    assert step._graph is not None and step.read_sums().num_images == 64


@pytest.mark.parametrize("limit", ["4GiB", "1500MiB"])
def test_a_memory_limit_holds(cuda: torch.device, cli, photos: Path, tmp_path, limit: str) -> None:
    words = ["--arch=resnet34", "--weights=none", "--recipe=report", "--size=224"]
    words += ["--epochs=2", "--batch-size=16"]
    code, out, err = cli("train", photos, *words, f"--memory-limit={limit}", "--out", tmp_path)
    assert code in (0, 1)  # the driver's context alone may be a third of the smaller one
    if code == 1:
        assert limit != "4GiB" and "does not fit" in err
        return
    summary = json.loads((tmp_path / "photos-resnet34" / "summary.json").read_text())
    assert 2**28 < summary["peak_memory_bytes"] <= parse_bytes(limit, "--memory-limit"), out


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


SMALL = ["--arch=resnet18", "--weights=none", "--recipe=report", "--size=32"]
SMALL += ["--epochs=2", "--batch-size=8"]
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


def test_what_is_drawn_is_the_same_on_the_gpu(cuda: torch.device) -> None:
    options = {"color": 0.4, "erasing": 0.5, "mixup": 0.4, "cutmix": 0.5, "label_smoothing": 0.1}
    config = resolve(TrainConfig(data="-", recipe="report", **options))
    rng = torch.Generator().manual_seed(0)
    images_NHWC = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=rng)
    batch = (images_NHWC, (torch.rand(8, 5, generator=rng) < 0.5).float(), torch.arange(8))
    for position in range(1, 7):
        seen = []
        for device in (torch.device("cpu"), cuda):
            augmentation = Augmentation(config, 8, device, normalize.IMAGENET_MEAN)
            augmentation.start_epoch(1)
            seen.append([t.cpu() for t in augmentation(*(t.to(device) for t in batch), position)])
        (images, targets), (others, other_targets) = seen
        assert (images.int() - others.int()).abs().max() <= 1
        torch.testing.assert_close(targets, other_targets)


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


@pytest.fixture
def photograph_files(tmp_path: Path) -> list[Path]:
    """Return 64 photograph-like JPEGs of 128 x 128, some grayscale, some without subsampling."""
    paths = [tmp_path / f"{i}.jpg" for i in range(64)]
    y, x = np.mgrid[:128, :128]
    for i, path in enumerate(paths):
        rng = np.random.default_rng(i)
        frequencies = rng.uniform(0.02, 0.4, (3, 2))
        waves = [np.sin(fx * x + fy * y + i) for fx, fy in frequencies]
        pixels = 127 + 80 * np.stack(waves, axis=2) + rng.normal(0, 8, (128, 128, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image = image.convert("L") if i % 8 == 0 else image
        image.save(path, quality=90, subsampling=0 if i % 3 == 0 else 2)
    return paths
