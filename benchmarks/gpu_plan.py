"""What a GPU acceptance run measures, the most important first, and what its figures are to be.

Nothing heavy is imported here: the process that watches reads this, too.
"""

import gc
import sys
from typing import Any

from gpu_record import Goal, Part

GIB = 2**30
_MEMORY = ("peak_bytes", "sampled_peak_bytes", "limit_bytes", "plan", "how_measured", "trial")
_MEMORY += ("images_per_s",)
_DECODING = (
    "seconds_to_generate",
    "images",
    "mean_levels",
    "worst_levels",
    "worst_image_mean_levels",
)
_DECODING += ("values_by_levels", "worst_images", "large_mean_levels", "large_worst_levels")
_SPEED = ("input_images_per_s", "step_images_per_s", "end_to_end_images_per_s")
_SPEED += ("end_to_end_to_step", "end_to_end_to_step_range", "cached_to_step")
_SPEED += ("cached_to_step_range", "results")
_BEST = ("images_per_s_at_batch", "best_batch", "flops_per_image", "mfu", "mfu_of_product")
_BEST += ("peers_step_images_per_s", *_SPEED)
_PEERS = ("ours_to_torchvision", "ours_to_timm", "step_to_torchvision", "step_to_timm", "results")
_SCORE = (
    "history",
    "train_s",
    "images_per_s",
    "scores",
    "micro_f1",
    "above_constant_f1",
    "peak_bytes",
)

PARTS = (
    # ------------------------------------------------- 1: is it right, and does it fit the memory
    Part(
        "versions",
        1,
        "versions and hardware",
        20,
        "gpu_checks:versions",
        ("environment", "capability", "memory_bytes", "driver", "tf32", "data"),
    ),
    Part(
        "decoding",
        1,
        "decoding on a GPU that is busy, beside decoding on the CPU",
        70,
        "gpu_checks:decoding",
        _DECODING,
    ),
    Part(
        "memory_large",
        1,
        "resnet34 at 224 px and batch 32 on originals of 12 Mpx within 4 GiB",
        100,
        "gpu_checks:memory_large",
        ("original_px", "estimated_bytes", *_MEMORY),
    ),
    Part(
        "memory_small",
        1,
        "the same on the photographs as they are",
        60,
        "gpu_checks:memory_small",
        _MEMORY,
    ),
    Part(
        "tests",
        1,
        "tests/gpu",
        170,
        "gpu_checks:tests",
        ("summary", "passed", "failed", "skipped", "failures"),
    ),
    # ----------------------------------------------------------------------------- 2: is it fast
    Part(
        "products",
        2,
        "what products of matrices reach, by format and size",
        20,
        "gpu_speed:products",
        ("tflops", "best_bf16_flops_per_s", "data_sheet_flops_per_s", "tf32"),
    ),
    Part(
        "speed_resnet34",
        2,
        "input, step and both, resnet34 at 224 px, batch 32",
        60,
        "gpu_speed:speed_resnet34",
        _SPEED,
    ),
    Part(
        "best_resnet34",
        2,
        "the same at its best batch, and the share of the peak",
        70,
        "gpu_speed:best_resnet34",
        _BEST,
    ),
    Part(
        "train_resnet34",
        2,
        "train itself, resnet34 at 224 px, batch 32, beside the step alone",
        35,
        "gpu_speed:train_resnet34",
        ("step_images_per_s", "train_images_per_s", "train_to_step"),
    ),
    Part(
        "peers_resnet34",
        2,
        "torchvision's and timm's way, resnet34 at 224 px, batch 32",
        70,
        "gpu_speed:peers_resnet34",
        _PEERS,
    ),
    Part(
        "speed_large",
        2,
        "input, step and both on originals of 12 Mpx, resnet34 at 224 px, batch 32",
        50,
        "gpu_speed:speed_large",
        _SPEED,
    ),
    Part(
        "speed_resnet18",
        2,
        "input, step and both, resnet18 at 224 px, batch 32",
        40,
        "gpu_speed:speed_resnet18",
        _SPEED,
    ),
    Part(
        "best_resnet18",
        2,
        "the same at its best batch, and the share of the peak",
        50,
        "gpu_speed:best_resnet18",
        _BEST,
    ),
    Part(
        "peers_resnet18",
        2,
        "torchvision's and timm's way, resnet18 at 224 px, batch 32",
        40,
        "gpu_speed:peers_resnet18",
        _PEERS,
    ),
    # ----------------------------------------------------------------------- 3: does it hold out
    Part(
        "full",
        3,
        "a full training of resnet34 from scratch, with its score",
        110,
        "gpu_trainings:full",
        _SCORE,
    ),
    Part(
        "curves",
        3,
        "loss curves of number formats, with CUDA graphs and eager",
        90,
        "gpu_trainings:curves",
        ("train_loss", "fp32_off", "bf16_off", "fp16_off", "bf16_eager_off", "repeated_off"),
    ),
    Part(
        "stopping",
        3,
        "SIGTERM while it trains, and --resume",
        70,
        "gpu_trainings:stopping",
        ("stopped_exit_code", "resumed_exit_code", "missing_epochs", "train_loss", "loss_off"),
    ),
    Part(
        "flat",
        3,
        "memory over 2,000 steps",
        45,
        "gpu_trainings:flat",
        ("steps", "every_100_steps", "host_growth", "device_growth"),
    ),
    Part(
        "pretrained",
        3,
        "timm/tf_efficientnet_lite0 with ImageNet's weights: probe and fine-tuning",
        80,
        "gpu_trainings:pretrained",
        _SCORE,
    ),
)

_FITS = "for users with 4 GB: 2.5 GiB at device level leave room for a desktop"
_FED = "the step should not wait for images: 97 % of its speed end to end"
_FORMATS = "assumed: runs of one seed whose sums are rounded otherwise; wrong ones differ by more"
GOALS = (
    Goal("tests", "failed", "equal to", 0, "tests that only a GPU can run"),
    Goal("tests", "passed", "at least", 1, "they have run"),
    # See gpu_checks.decoding for these two.
    Goal("decoding", "worst_levels", "at most", 3, "components may be off by one level each"),
    Goal("decoding", "mean_levels", "at most", 0.5, "half of the values off by a level"),
    Goal("memory_large", "peak_bytes", "at most", 2.5 * GIB, _FITS),
    Goal("memory_large", "sampled_peak_bytes", "at most", 2.5 * GIB, _FITS),
    Goal("memory_small", "peak_bytes", "at most", 2.5 * GIB, _FITS),
    Goal("memory_small", "sampled_peak_bytes", "at most", 2.5 * GIB, _FITS),
    *(
        Goal(f"{kind}_{arch}", figure, "at least", 0.97, _FED)
        for arch in ("resnet34", "resnet18")
        for kind in ("speed", "best")
        for figure in ("end_to_end_to_step", "cached_to_step")
    ),
    Goal("train_resnet34", "train_to_step", "at least", 0.97, _FED),
    Goal("best_resnet34", "mfu", "at least", 0.35, "asked for, of the data sheet's peak"),
    Goal("full", "above_constant_f1", "at least", 0.05, "it has learned more than frequencies"),
    Goal("pretrained", "above_constant_f1", "at least", 0.2, "0.74 on a CPU, against 0.36"),
    Goal("stopping", "stopped_exit_code", "equal to", 143, "128 + SIGTERM"),
    Goal("stopping", "resumed_exit_code", "equal to", 0, "--resume"),
    Goal("stopping", "missing_epochs", "equal to", 0, "--resume"),
    Goal("stopping", "loss_off", "at most", 0.05, _FORMATS),
    Goal("flat", "host_growth", "at most", 0.02, "over the second thousand steps"),
    Goal("flat", "device_growth", "at most", 0.02, "over the second thousand steps"),
    Goal("curves", "fp32_off", "at most", 0.02, _FORMATS),
    Goal("curves", "bf16_off", "at most", 0.05, _FORMATS),
    Goal("curves", "fp16_off", "at most", 0.05, _FORMATS),
    Goal("curves", "bf16_eager_off", "at most", 0.05, _FORMATS),
)


def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU."""
    import torch

    return torch.cuda.is_available()


def environment() -> dict[str, Any]:
    """Return versions and hardware, which each call says for itself."""
    from grigri_fast.runtime import compute
    from grigri_fast.runtime import environment as here

    device = compute.pick_device("auto")
    found = here.describe(device, compute.pick_amp("auto", device))
    del found["command"]  # a child's
    return found


def clean_up() -> None:
    """Free what a part has left behind.

    Raises:
        Exception: if CUDA is not usable any more.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()  # a sticky error of an earlier kernel is raised here
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, torch.cuda.current_device())
        if torch.ones(1, device="cuda").item() != 1:
            raise RuntimeError("a tensor of a one is none")
