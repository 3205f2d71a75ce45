"""What holds on a GPU, as functions of a device: tests/gpu runs them on one, the others on a CPU.

So a name that is wrong, or a claim that is, is found without a GPU. On a CPU the loader makes its
batches by the GPU's graph, of DALI's operators for a CPU, and CUDA graphs are emulated.
"""

import copy
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_graph import EmulatedGraphs
from nvidia.dali import fn, pipeline_def
from odd_images import ODD, SIDE
from PIL import Image
from small_runs import losses_of, run_of, same
from torch import nn

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import factory, normalize
from grigri_fast.pipeline.batching import Batch
from grigri_fast.pipeline.cache import CachePlan
from grigri_fast.pipeline.check import check_images
from grigri_fast.pipeline.loader import ImageLoader
from grigri_fast.runtime import compute, memory
from grigri_fast.runtime.memory import Budget
from grigri_fast.runtime.units import parse_bytes
from grigri_fast.training import optim
from grigri_fast.training.augment import Augmentation
from grigri_fast.training.losses import LOSSES
from grigri_fast.training.step import TrainStep

CPU = torch.device("cpu")
OPTIMIZERS = ("sgd", "muon", "adam", "adamw", "amsgrad", "rmsprop")
# Where components may be off by a level each (nvJPEG's inverse DCT and its interpolation of chroma
# round otherwise; NVIDIA's own test_fancy_upsampling allows that), RGB may be off by three: 1.772
# times the error of chroma, that of luma, and two roundings. Corrupted blocks are off by dozens.
DECODED_LEVELS, DECODED_MEAN = 3, 0.5


# ------------------------------------------------------------------------------------- images


def loader_on(
    device: torch.device, paths: list[Path], size_px: int, by_opencv: bool = False, **options
) -> ImageLoader:
    """Return a loader of checked files; on a CPU by the GPU's way, or by OpenCV's."""
    found = options.pop("checked", None) or check_images(paths, threads=1, max_pixels=10**8)
    settings = {"size_px": size_px, "batch_size": 16, "device": device, "threads": 1}
    return ImageLoader(paths, found, **settings, host_warp=by_opencv, **options)


def images_of(batches: Iterable[Batch]) -> np.ndarray:
    """Return the images of all batches, in the order of their rows."""
    taken = [(b.rows_N.cpu().numpy(), b.images_NHWC.cpu().numpy()) for b in batches]
    rows, images = (np.concatenate(some) for some in zip(*taken, strict=True))
    return images[np.argsort(rows)].astype(int)


def both(device: torch.device, paths: list[Path], size_px: int) -> list[ImageLoader]:
    """Return the device's loader, and that of a CPU with OpenCV."""
    return [loader_on(device, paths, size_px), loader_on(CPU, paths, size_px, by_opencv=True)]


def noisy_images(folder: Path, num: int) -> list[Path]:
    """Write lossless images of noise, of several sizes."""
    paths = [folder / f"{i}.png" for i in range(num)]
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).integers(0, 256, (60 + 9 * i, 200 - 5 * i, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
    return paths


def photograph_files(folder: Path, num: int) -> list[Path]:
    """Write photograph-like JPEGs of 128 x 128, some gray, some without subsampling."""
    paths = [folder / f"{i}.jpg" for i in range(num)]
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


def check_decoding(device: torch.device, folder: Path, num: int) -> None:
    paths = photograph_files(folder, num)
    # 128 is the files' own size: the map is the identity, so that decoding alone is compared.
    ours, theirs = (images_of(x.eval_epoch(np.arange(num))) for x in both(device, paths, 128))
    apart = np.abs(ours - theirs)
    assert apart.mean() <= DECODED_MEAN and apart.max() <= DECODED_LEVELS


def check_what_pillow_decodes(device: torch.device, folder: Path) -> None:
    for name, (content, _, _) in ODD.items():
        (folder / name).write_bytes(content)
    paths = [folder / name for name in ODD]
    rows = np.array(sorted(check_images(paths, threads=1, max_pixels=10**8).by_pillow))
    ours, theirs = (images_of(x.eval_epoch(rows)) for x in both(device, paths, SIDE))
    assert len(rows) > 10 and np.abs(ours - theirs).max() <= 1


def check_warping(device: torch.device, folder: Path) -> None:
    """Without shrinking, with it, and from originals that are shrunk before.

    The last by DALI on either device, whose sums may be rounded otherwise (assumed: by a level).
    """
    paths = noisy_images(folder, 20)
    for size_px, most in ((96, 1), (32, 2), (8, 3)):
        ours, theirs = (
            images_of(x.train_epoch(np.arange(20), seed=0, epoch=1, augment=True))
            for x in both(device, paths, size_px)
        )
        assert np.abs(ours - theirs).max() <= most, size_px


def check_rows_and_images(device: torch.device, folder: Path, num_epochs: int, side: int) -> None:
    """Rows and images stay together while the device is busy, with products of a ``side``."""
    paths = [folder / f"{i}.png" for i in range(250)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 40), (i, i, i)).save(path)
    loader = loader_on(device, paths, 32)
    weights = torch.randn(side, side, device=device)
    for epoch in range(num_epochs):
        seen = []
        for batch in loader.train_epoch(np.arange(250), seed=0, epoch=epoch, augment=True):
            weights = torch.tanh(weights @ weights)  # it is busy while images arrive
            shown = batch.images_NHWC.float().mean((1, 2, 3)).round().long()
            assert (shown == batch.rows_N).all()
            assert batch.images_NHWC.device.type == batch.rows_N.device.type == device.type
            seen += batch.rows_N.tolist()
        assert sorted(seen) == list(range(250))


def check_cache(device: torch.device, folder: Path, place: str) -> None:
    """What is kept gives the same pixels as decoding, also if there is not room for all."""
    paths = photograph_files(folder, 32)
    rows = np.arange(32)
    for room in (10_000_000, 16 * 128 * 128 * 3):
        cached = loader_on(device, paths, 96, cache=CachePlan(place, 0, room))
        plain = loader_on(device, paths, 96)
        for epoch in (1, 2, 3):  # filled in the first
            options = {"seed": 0, "epoch": epoch, "augment": True}
            ours, theirs = (images_of(x.train_epoch(rows, **options)) for x in (cached, plain))
            assert np.array_equal(ours, theirs)


def check_bad_files(device: torch.device, folder: Path) -> None:
    """Files that a decoder refuses although they were checked cost themselves alone."""
    paths = photograph_files(folder, 40)
    found = check_images(paths, threads=1, max_pixels=10**8)
    whole = images_of(loader_on(device, paths, 96, checked=found).eval_epoch(np.arange(40)))
    bad = (3, 4, 31)
    for row in bad:
        content = paths[row].read_bytes()[:400]  # the header is good, the rest is missing
        paths[row].write_bytes(content)
        found.crc32_N[row] = zlib.crc32(content)
    loader = loader_on(device, paths, 96, checked=found)
    good = np.setdiff1d(np.arange(40), bad)
    for _ in range(2):  # the loader lives on
        batches = list(loader.eval_epoch(np.arange(40)))
        dropped = {row: why for batch in batches for row, why in batch.dropped.items()}
        assert set(dropped) == set(bad) and all(dropped.values())
        assert np.array_equal(images_of(batches), whole[good])


# -------------------------------------------------------------------------------------- steps


def small_network() -> nn.Module:
    """Return a network with statistics for images of 16 px, of three classes."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(72, 3))


def check_step(
    device: torch.device,
    amp: str,
    optimizer: str,
    tolerance: float,
    network: nn.Module,
    size_px: int,
) -> None:
    """Steps in CUDA graphs are the eager steps: rates that change, two sizes, one not finite."""
    first = network.to(device, memory_format=torch.channels_last).train()
    config = resolve(TrainConfig(data="-", recipe="report", optimizer=optimizer, lr=0.01))
    seen = []
    for use_graph in (True, False):
        model = copy.deepcopy(first)
        made = optim.make_optimizer(config, model.parameters(), on_device=True)
        scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=amp == "fp16")
        notes: list[str] = []
        step = TrainStep(
            model,
            made,
            scaler,
            LOSSES["bce"],
            device=device,
            amp=amp,
            batch_size=16,
            use_graph=use_graph,
            graphs=None if device.type == "cuda" else EmulatedGraphs(),
            note=notes.append,
        )
        step.start_epoch([], 0, 0)
        rng = torch.Generator(device=device).manual_seed(0)
        sizes = [16] * 5 + [7] + [16] * 4 + [7, 16]
        for i, num in enumerate(sizes):
            shape = (num, size_px, size_px, 3)
            images_NHWC = torch.randint(0, 256, shape, generator=rng, device=device)
            targets_NC = (torch.rand(num, 3, generator=rng, device=device) < 0.5).float()
            if i == 7:
                targets_NC *= torch.inf
            optim.set_lr_and_momentum(made, 0.001 * (i + 1), 0.95 - 0.01 * i)
            step(images_NHWC.to(torch.uint8), targets_NC)
        assert not notes and step.num_graphs == (2 if use_graph else 0)
        sums = step.read_sums()
        assert (sums.num_images, sums.num_skipped, sums.bad_step) == (sum(sizes) - 16, 1, 8)
        seen.append((sums.loss, [p.detach().clone() for p in model.parameters()]))
    (loss, ours), (other_loss, theirs) = seen
    assert loss == pytest.approx(other_loss, rel=tolerance)
    moved = sum((w - p).norm() for w, p in zip(theirs, first.parameters(), strict=True))
    apart = sum((w - v).norm() for w, v in zip(ours, theirs, strict=True))
    assert moved > 0 and apart <= 10 * tolerance * moved


class Deciding(nn.Sequential):
    """A network that asks for a number, so that it cannot be captured."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (2.0 if images.mean().item() > 0 else 1.0)


def check_a_network_that_cannot_be_captured(device: torch.device) -> None:
    model = Deciding(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).to(device).train()
    config = resolve(TrainConfig(data="-", recipe="report"))
    notes: list[str] = []
    step = TrainStep(
        model,
        optim.make_optimizer(config, model.parameters(), on_device=True),
        torch.amp.GradScaler(device.type, enabled=False),
        LOSSES["bce"],
        device=device,
        amp="bf16",
        batch_size=8,
        graphs=None if device.type == "cuda" else EmulatedGraphs(),
        note=notes.append,
    )
    step.start_epoch([], 0, 0)
    images_NHWC = torch.full((8, 8, 8, 3), 200, dtype=torch.uint8, device=device)
    for _ in range(8):
        step(images_NHWC, torch.zeros(8, 3, device=device))
    assert len(notes) == 1 and "cannot be captured" in notes[0]
    sums = step.read_sums()
    assert (step.num_graphs, sums.num_images, sums.num_skipped) == (0, 64, 0)


def check_amp(device: torch.device, amp: str, arch: str) -> None:
    """Training steps in a number format lower the loss of a batch."""
    torch.manual_seed(0)
    model = factory.build(arch, 3, 64).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
    images_NHWC = torch.randint(0, 256, (16, 64, 64, 3), dtype=torch.uint8, device=device)
    targets_NC = (torch.rand(16, 3, device=device) < 0.5).float()
    losses = []
    for _ in range(20):
        with compute.autocast(device, amp):
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


def check_what_is_drawn(device: torch.device) -> None:
    """Colours, erased places and blends are those of the CPU."""
    options = {"color": 0.4, "erasing": 0.5, "mixup": 0.4, "cutmix": 0.5, "label_smoothing": 0.1}
    config = resolve(TrainConfig(data="-", recipe="report", **options))
    rng = torch.Generator().manual_seed(0)
    images_NHWC = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=rng)
    batch = (images_NHWC, (torch.rand(8, 5, generator=rng) < 0.5).float(), torch.arange(8))
    for position in range(1, 7):
        seen = []
        for on in (CPU, device):
            augmentation = Augmentation(config, 8, on, normalize.IMAGENET_MEAN)
            augmentation.start_epoch(1)
            seen.append([t.cpu() for t in augmentation(*(t.to(on) for t in batch), position)])
        (images, targets), (others, other_targets) = seen
        assert (images.int() - others.int()).abs().max() <= 1
        torch.testing.assert_close(targets, other_targets)


# ------------------------------------------------------------------------------------- memory


@pipeline_def
def random_numbers(on: str, side: int):
    """A square of random numbers that may be too large for any memory."""
    return fn.random.uniform(range=[0.0, 1.0], shape=[side, side], device=on)


def check_out_of_memory(device: torch.device) -> None:
    """PyTorch's and DALI's errors are taken for what they are."""
    with pytest.raises((RuntimeError, MemoryError)) as error:
        torch.empty(2**56, dtype=torch.uint8, device=device)
    assert memory.is_out_of_memory(error.value), error.value
    on_gpu = device.type == "cuda"
    graph = random_numbers(
        on="gpu" if on_gpu else "cpu",
        side=2**24,
        batch_size=1,
        num_threads=1,
        device_id=device.index if on_gpu else None,
    )
    graph.build()
    with pytest.raises((RuntimeError, MemoryError)) as error:
        graph.run()
    assert memory.is_out_of_memory(error.value), error.value


def check_cap(device: torch.device) -> None:
    """A cap makes PyTorch fail above the limit, and ends with the run that had it."""
    gib = 2**30
    memory.release(device)
    with Budget(device) as before:
        limit = before.sample() + 2 * gib
    with Budget(device, limit) as budget:
        budget.cap_torch()
        if device.type == "cuda":
            with pytest.raises(torch.OutOfMemoryError):
                torch.empty(3 * gib, dtype=torch.uint8, device=device)
        peak = memory.peak_of(lambda: torch.empty(2**56, dtype=torch.uint8, device=device), budget)
        assert peak is None
        small = memory.peak_of(lambda: torch.zeros(2**26, device=device), budget)
        assert small is not None and small > 2**28
    if device.type == "cuda":
        torch.empty(3 * gib, dtype=torch.uint8, device=device)
        memory.release(device)


# ---------------------------------------------------------------------------------- trainings

TRAINED = ["--weights=none", "--recipe=report", "--size=32", "--epochs=2", "--batch-size=8"]


def check_two_trainings(
    device: torch.device, cli, photos: Path, out: Path, arch: str, tolerance: float, *more: str
) -> None:
    """The same training twice gives the same losses; on a CPU the same weights, bit for bit."""
    runs = []
    for name in ("a", "b"):
        words = [f"--arch={arch}", *TRAINED, "--seed=3", *more, "--out", out, f"--name={name}"]
        code, printed, err = cli("train", photos, *words)
        assert (code, err) == (0, "") and f"on {device}" in printed
        runs.append(run_of(printed))
    ours, theirs = (np.array(losses_of(run)) for run in runs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    assert tolerance or same(*runs)


def check_memory_limit(
    device: torch.device, cli, photos: Path, out: Path, limit: str, *words: str
) -> int:
    """A training stays within a limit, or says in a line that it does not fit; its peak."""
    words = ("--weights=none", "--recipe=report", *words)
    code, printed, err = cli("train", photos, *words, f"--memory-limit={limit}", "--out", out)
    assert code in (0, 1)
    if code == 1:
        assert "does not fit" in err and err.count("\n") == 1
        return 0
    summary = json.loads((run_of(printed) / "summary.json").read_text())
    peak = summary["peak_memory_bytes"]
    assert 2**27 < peak <= parse_bytes(limit, "--memory-limit"), printed
    return peak
