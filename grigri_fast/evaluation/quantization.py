"""``export`` in all formats, and what an int8 file loses: it is scored beside the fp32 file.

The ranges of int8 come from training photographs, the scores from the validation part, so that no
photograph is on both sides. Shapes: N images, C classes.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import MAX_PIXELS
from ..errors import GrigriError, UsageError
from ..inference import exporter, hub_folder, onnx, quantization
from ..inference.exporter import Exported
from ..inference.onnx import OnnxModel
from ..inference.quantization import Quantized, QuantizeName
from ..pipeline.batching import Batch
from ..pipeline.check import check_images, without
from ..pipeline.loader import ImageLoader
from ..runs import run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName, RunPart
from ..runtime import files
from ..runtime.compute import Compute, require_one_of
from ..runtime.files import StrPath
from . import bootstrap

FormatName = Literal["onnx", "pt2", "hub"]

MOST_LOSS = 0.02  # of micro-F1: assumed; about what halving the number of photographs costs

_NUM_CALIBRATED = 256  # assumed: ONNX Runtime's documentation has "a few hundred"
_BATCH_SIZE = 16
_ROUNDS = 5  # of the measurement of speed


def export(
    run: StrPath,
    *,
    format: FormatName = "onnx",
    quantize: QuantizeName | None = None,
    out: StrPath | None = None,
    checkpoint: CheckpointName = "last",
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write a run's checkpoint for other programs, if it computes what PyTorch computes.

    Args:
        run: the run folder.
        format: ``onnx``, ``pt2`` (what ``torch.export.save`` writes), or ``hub`` (a folder, see
            :mod:`hub_folder`).
        quantize: ``int8``, to compute with 8-bit integers (ONNX); it takes the run's photographs.
        out: the file or folder, by default ``model.onnx``, ``model-int8.onnx``, ``model.pt2`` or
            ``hub`` in the run folder.
        checkpoint, threads: as in :func:`predictor.load`.
        on_progress: called with the number of stages done and that of all.

    Raises:
        GrigriError: if run and format do not fit each other, packages are missing, it cannot be
            written, its probabilities differ by more than ``exporter.MOST_DIFFERENCE``, or
            int8 loses more micro-F1 than ``MOST_LOSS``, and not by chance (95 % interval).
    """
    require_one_of("--format", format, FormatName)
    if quantize is not None:
        require_one_of("--quantize", quantize, QuantizeName)
        if format != "onnx":
            raise UsageError(f"--quantize {quantize} goes with --format onnx")
        return _export_int8(Path(run), out, checkpoint, threads, on_progress)
    if format == "hub":
        return hub_folder.export(
            run, out=out, checkpoint=checkpoint, threads=threads, on_progress=on_progress
        )
    return exporter.export(
        run,
        format=format,
        out=out,
        checkpoint=checkpoint,
        threads=threads,
        on_progress=on_progress,
    )


def _export_int8(
    folder: Path,
    out: StrPath | None,
    checkpoint: CheckpointName,
    threads: int | None,
    on_progress: Callable[[int, int], None],
) -> Exported:
    """Write a run's checkpoint as an ONNX file in int8."""
    run_folder.require(folder)
    out = folder / "model-int8.onnx" if out is None else Path(out)
    files.require_writable(out, ".onnx")
    onnx.require(*exporter.ONNX_PACKAGES)
    train, val = (_part(folder, part) for part in ("train", "val"))
    with tempfile.TemporaryDirectory() as name:
        plain_file = Path(name) / "model.onnx"
        done = exporter.export(
            folder,
            out=plain_file,
            checkpoint=checkpoint,
            threads=threads,
            on_progress=lambda stage, total: on_progress(stage, total + 3),
        )
        plain = plain_file.read_bytes()
    compute = Compute.resolve("cpu", "fp32", threads)
    step = max(1, len(train.rows) // _NUM_CALIBRATED)
    rows = train.rows[::step][:_NUM_CALIBRATED]
    with compute.open():
        calibration = [batch.images_NHWC for batch in _batches(train, rows, done.info, compute)]
        content = quantization.to_int8(plain, calibration)
        on_progress(4, 6)
        models = [OnnxModel(c, compute.threads, "the exported file") for c in (plain, content)]
        measured = _compared(models, val, done.info, compute)
        measured = dataclasses.replace(
            measured,
            num_calibrated=sum(map(len, calibration)),
            size_ratio=len(content) / len(plain),
            speed_ratio=_speed_ratio(models, calibration[0]),
        )
        on_progress(5, 6)
    if measured.loss > MOST_LOSS and measured.low > 0:
        raise GrigriError(
            f"{folder}: in int8 micro-F1 is {measured.micro_f1:.4f} instead of"
            f" {measured.fp32_micro_f1:.4f} on {measured.num_images:,} validation images, more than"
            f" {MOST_LOSS:g} lower; nothing was written (leave --quantize out)"
        )
    about = models[0].metadata() | {"quantization": {"to": "int8"} | dataclasses.asdict(measured)}
    files.write_atomic(out, quantization.with_metadata(content, about))
    on_progress(6, 6)
    return dataclasses.replace(done, path=out, quantized=measured)


def _part(folder: Path, part: str) -> RunPart:
    """Return a part of a run's data; raise GrigriError, saying what for, if it cannot be had."""
    try:
        return run_folder.open_part(folder, part)
    except GrigriError as e:
        raise GrigriError(f"--quantize int8 takes the run's photographs: {e}") from e


def _batches(
    part: RunPart, rows: NDArray[np.intp], info: ModelInfo, compute: Compute
) -> Iterator[Batch]:
    """Yield those of some rows' images that can be used."""
    paths = part.data.paths
    checked = check_images(paths, rows, threads=compute.threads, max_pixels=MAX_PIXELS)
    good = without(rows, checked.bad)
    if not len(good):
        raise GrigriError("--quantize int8: none of the run's photographs can be used")
    loader = ImageLoader(
        paths,
        checked,
        size_px=info.size_px,
        batch_size=_BATCH_SIZE,
        device=compute.device,
        threads=compute.threads,
    )
    with contextlib.closing(loader):
        yield from (batch for batch in loader.eval_epoch(good) if len(batch.rows_N))


def _compared(
    models: list[OnnxModel], val: RunPart, info: ModelInfo, compute: Compute
) -> Quantized:
    """Return the scores of the fp32 and the int8 file on the validation part."""
    rows: list[int] = []
    parts: list[list[NDArray]] = [[], []]
    for batch in _batches(val, val.rows, info, compute):
        rows += batch.rows_N.tolist()
        for model, part in zip(models, parts, strict=True):
            part.append(model(batch.images_NHWC).numpy())
    targets_NC, unknown_NC = val.data.targets_NC[rows].astype(bool), val.data.unknown_NC
    weights_RN = bootstrap.draw_weights(len(rows))
    scores = []
    for part in parts:
        predicted_NC = np.concatenate(part) >= info.thresholds_C
        if unknown_NC is not None:
            predicted_NC &= ~unknown_NC[rows]
        scores.append(bootstrap.replicated_micro_f1(predicted_NC, targets_NC, weights_RN))
    plain, small = scores
    loss = (plain - small).interval()
    return Quantized(len(rows), small.value, plain.value, loss.low, loss.high)


def _speed_ratio(models: list[OnnxModel], images_NHWC: torch.Tensor) -> float:
    """Return how much faster the second model is on a batch: the median of interleaved rounds."""
    for model in models:
        model(images_NHWC)  # warm
    rounds = [[_seconds(model, images_NHWC) for model in models] for _ in range(_ROUNDS)]
    return statistics.median(plain_s / small_s for plain_s, small_s in rounds)


def _seconds(model: OnnxModel, images_NHWC: torch.Tensor) -> float:
    """Return how long a batch takes: the mean of as many as go into a fifth of a second."""
    start_s, num = time.perf_counter(), 0
    while time.perf_counter() < start_s + 0.2:
        model(images_NHWC)
        num += 1
    return (time.perf_counter() - start_s) / num
