"""What only a GPU can show. The CPU tests run the same graph on DALI's CPU operators."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grigri_fast import devices, keeper, models
from grigri_fast.inspection import inspect
from grigri_fast.pipeline import ImageLoader


def loader_on(device: torch.device, paths: list[Path], size_px: int) -> ImageLoader:
    found = inspect(paths, threads=2)
    return ImageLoader(paths, found, size_px=size_px, batch_size=16, device=device, threads=2)


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


@pytest.mark.parametrize("amp", ["auto", "fp32", "fp16", "bf16"])
def test_training_steps_under_amp_lower_the_loss(cuda: torch.device, amp: str) -> None:
    torch.manual_seed(0)
    amp = devices.pick_amp(amp, cuda)
    model = models.build("resnet18", 3, 64).to(cuda, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda", enabled=amp == "fp16")
    images_NHWC = torch.randint(0, 256, (16, 64, 64, 3), dtype=torch.uint8, device=cuda)
    targets_NC = (torch.rand(16, 3, device=cuda) < 0.5).float()
    losses = []
    for _ in range(20):
        with devices.autocast(cuda, amp):
            inputs_NCHW = models.normalise(images_NHWC)
            logits_NC = model(inputs_NCHW)
        assert inputs_NCHW.is_contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_NC.float(), targets_NC)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]


def test_the_command_trains_on_the_gpu(cuda: torch.device, cli, photos: Path, tmp_path) -> None:
    small = ["--arch=resnet18", "--weights=none", "--size=32", "--epochs=2", "--batch-size=8"]
    code, out, err = cli("train", photos, *small, "--out", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert "on cuda" in out
    run = tmp_path / "runs" / "photos-resnet18"
    assert cli("eval", run)[0] == 0
    assert cli("predict", run, photos / "images", "--out", tmp_path / "p.csv")[0] == 0


def test_a_stopped_run_goes_on_on_the_gpu(
    cuda: torch.device, cli, photos: Path, tmp_path, monkeypatch
) -> None:
    is_due, steps = keeper.Keeper.is_due, []

    def stopping(self) -> bool:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return is_due(self)

    monkeypatch.setattr(keeper.Keeper, "is_due", stopping)
    small = ["--arch=resnet18", "--weights=none", "--size=32", "--epochs=2", "--batch-size=8"]
    for amp in ("bf16", "fp16"):
        steps.clear()
        options = [*small, f"--amp={amp}", "--out", tmp_path, f"--name={amp}"]
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
