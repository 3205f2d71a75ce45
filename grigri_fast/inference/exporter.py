"""A run as one file for other programs, which takes images and gives probabilities.

(As a folder that timm loads: :mod:`hub_folder`.)

The file holds everything between the two: normalisation, the network, the mean of image and mirror
image where the run asks for it, and the sigmoid. It is compared with PyTorch before it is written.

Shapes: N images of a batch, C classes. The input ``images`` is uint8 RGB (N, size, size, 3), the
output ``probabilities`` float32 (N, C). Class names, thresholds and preprocessing are JSON: in an
ONNX file the entry ``grigri-fast`` of its metadata, in a pt2 file the extra file
``grigri-fast.json``.
"""

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..config import MAX_PIXELS
from ..errors import GrigriError
from ..models import normalize
from ..pipeline import affine
from ..pipeline.check import check_images, without
from ..pipeline.loader import ImageLoader
from ..runs import checkpoint as checkpoints
from ..runs import run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName
from ..runtime import files
from ..runtime.compute import Compute, require_one_of
from ..runtime.files import StrPath
from . import forward, onnx
from .forward import Forward
from .onnx import FORMAT, INPUT, KEY, OUTPUT
from .quantization import Quantized

FormatName = Literal["onnx", "pt2"]  # of one file
MOST_DIFFERENCE = 1e-4  # of fp32 probabilities; what was seen is around 1e-7

_NAME = "model"  # of the file in the run folder
_NUM_CHECKED = 64
_CHECKED_AT_ONCE = 8
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """A file or folder that was written, and how it was checked.

    Attributes:
        path: the file or folder.
        info: what the model is.
        runtime: what computed with it, in words.
        images: which images it was checked on, in words.
        batch_sizes: sizes of the batches in which they were computed.
        difference: the largest difference between its probabilities and PyTorch's; of an int8
            file, those of the fp32 file that it was made from.
        quantized: what int8 costs and brings; None for a file in fp32.
    """

    path: Path
    info: ModelInfo
    runtime: str
    images: str
    batch_sizes: list[int]
    difference: float
    quantized: Quantized | None = None


def export(
    run: StrPath,
    *,
    format: FormatName = "onnx",
    out: StrPath | None = None,
    checkpoint: CheckpointName = "last",
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write a run's checkpoint as one file, if it computes what PyTorch computes.

    Args:
        run: the run folder.
        format: ``onnx``, or ``pt2`` (what ``torch.export.save`` writes).
        out: the file, by default ``model.onnx`` or ``model.pt2`` in the run folder.
        checkpoint, threads: as in :func:`predictor.load`.
        on_progress: called with the number of stages done and that of all.

    Raises:
        GrigriError: if run and format do not fit each other, packages are missing, the file cannot
            be written, or its probabilities differ by more than ``MOST_DIFFERENCE``.
    """
    require_one_of("--format", format, FormatName)
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    folder = Path(run)
    path = run_folder.checkpoint_path(folder, checkpoint)
    out = folder / f"{_NAME}.{format}" if out is None else Path(out)
    files.require_writable(out, f".{format}", hint=" (see --format)")
    if format == "onnx":
        onnx.require(*ONNX_PACKAGES)
    compute = Compute.resolve("cpu", "fp32", threads)
    with compute.open():
        model, info = checkpoints.load(path, compute.device)
        images_NHWC, images = images_to_check(folder, info, compute)
        on_progress(1, 3)

        content = _content(model, info, format)
        on_progress(2, 3)
        exported, runtime = _read_back(content, format, compute.threads)
        logits = forward.logits_of(model, compute, flip=info.flip_test)
        difference, sizes = compared(exported, logits, images_NHWC)
    if not difference <= MOST_DIFFERENCE:  # NaN is not, either
        raise GrigriError(
            f"{path}: {runtime} and PyTorch differ by {difference:.2g} in a probability, more than"
            f" {MOST_DIFFERENCE:g}, on {images}; nothing was written"
        )
    files.write_atomic(out, content)
    return Exported(out, info, runtime, images, sizes, difference)


# ------------------------------------------------------------------------------ what is written


class _ImagesToProbabilities(nn.Module):
    """What ``forward.logits_of`` and the sigmoid compute, as one network."""

    def __init__(self, model: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.model, self.flip = model, info.flip_test
        scale, offset = normalize.scale_and_offset(info.mean, info.std, torch.device("cpu"))
        self.register_buffer("scale_311", scale)
        self.register_buffer("offset_311", offset)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inputs_NCHW = images.permute(0, 3, 1, 2).float() * self.scale_311 - self.offset_311
        logits_NC = self.model(inputs_NCHW)
        if self.flip:
            logits_NC = (logits_NC + self.model(inputs_NCHW.flip(3))) / 2
        return logits_NC.sigmoid()


def metadata(info: ModelInfo) -> dict[str, Any]:
    """Return what another program needs to know: about the model, its input and its output."""
    n = info.size_px
    return {
        "format": FORMAT,
        "sha256": "0" * 64,
        "version": __version__,
        **dataclasses.asdict(info.for_others()),
        "input": f"{INPUT}: uint8 RGB (N, {n}, {n}, 3), any N; normalisation is inside",
        "output": f"{OUTPUT}: float32 (N, {len(info.class_names)}), in the order of class_names;"
        " a label is given where its probability is at least its threshold",
        "preprocessing": [
            "Decode to 8-bit RGB, upright (EXIF orientation applied). Grayscale and palettes are"
            " expanded, the range of 16 bits is scaled to that of 8 (65535 to 255), transparency is"
            " dropped, colour profiles are not applied.",
            *affine.describe_evaluation(n),
            "Leave the values as they are, 0 to 255.",
        ],
    }


def _content(model: nn.Module, info: ModelInfo, format: FormatName) -> bytes:
    """Return the file's bytes."""
    weights = [*model.parameters(), *model.buffers()]
    if format == "onnx" and sum(tensor.nbytes for tensor in weights) > onnx.MAX_BYTES:
        raise GrigriError(
            f"{info.arch} is larger than the 2 GiB that an ONNX file may have: use --format pt2"
        )
    whole = _ImagesToProbabilities(model, info).eval().requires_grad_(False)
    example = forward.random_images(2, info.size_px, torch.device("cpu"))
    with _quiet():
        program = torch.export.export(
            whole, (example,), dynamic_shapes=({0: torch.export.Dim("N")},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine, hundreds of them
        if format == "pt2":
            about = {key: value for key, value in metadata(info).items() if key != "sha256"}
            file = io.BytesIO()
            torch.export.save(program, file, extra_files={f"{KEY}.json": files.to_json(about)})
            return file.getvalue()
        _write_as_clamps(program.graph)
        made = torch.onnx.export(program, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
        made.rename_axes({made.model.graph.inputs[0].shape[0]: "N"})
        made.model.metadata_props[KEY] = files.to_json(metadata(info))
        return onnx.sealed(made.model_proto.SerializeToString())


def _write_as_clamps(graph: torch.fx.Graph) -> None:
    """Write each ReLU6 of a graph as the clamp that it is, and that ONNX has, too.

    ``torch.onnx.export`` would find that out by itself, but takes long: 13 to 17 s of a CPU for
    EfficientNet-Lite0 with its 33 of them, which are 4 s so, for a file that computes the same.
    """
    aten = torch.ops.aten
    limits = {aten.relu6.default: (0, 6), aten.relu6_.default: (0, 6)}
    limits |= {aten.hardtanh.default: (-1, 1), aten.hardtanh_.default: (-1, 1)}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in limits and not _is_seen(node):
            inputs, *given = node.args
            node.args = (inputs, *given, *limits[node.target][len(given) :])
            node.target = aten.clamp.default


def _is_seen(node: torch.fx.Node) -> bool:
    """Return whether others may see that an operation changes its input in place."""
    inputs = node.args[0]
    if not node.target._schema.is_mutable:
        return False
    is_view = inputs.op != "call_function" or any(
        returned.alias_info for returned in inputs.target._schema.returns
    )
    return is_view or len(inputs.users) > 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter prints, logs and warns of from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# -------------------------------------------------------------------------------- the check


def images_to_check(folder: Path, info: ModelInfo, compute: Compute) -> tuple[torch.Tensor, str]:
    """Return validation images of the run where they are there, else random ones; and which."""
    try:
        return _images_of_run(folder, info.size_px, compute)
    except GrigriError as e:
        images_NHWC = forward.random_images(_NUM_CHECKED, info.size_px, compute.device)
        return images_NHWC, f"{_NUM_CHECKED} random images (the run's own cannot be had: {e})"


def _images_of_run(folder: Path, size_px: int, compute: Compute) -> tuple[torch.Tensor, str]:
    """Return up to 64 images of a run's validation part, and which they are."""
    part = run_folder.open_part(folder, "val")
    paths, rows = part.data.paths, part.rows
    rows = rows[:: max(1, len(rows) // _NUM_CHECKED)][:_NUM_CHECKED]
    checked = check_images(paths, rows, threads=compute.threads, max_pixels=MAX_PIXELS)
    good = without(rows, checked.bad)
    if not len(good):
        raise GrigriError("none of the validation images can be used")
    loader = ImageLoader(
        paths,
        checked,
        size_px=size_px,
        batch_size=_CHECKED_AT_ONCE,
        device=compute.device,
        threads=compute.threads,
    )
    images_NHWC = torch.cat([batch.images_NHWC for batch in loader.eval_epoch(good)])
    loader.close()
    return images_NHWC, f"{len(images_NHWC)} images of the val part of {part.data.layout}"


def compared(
    exported: Forward, logits: Forward, images_NHWC: torch.Tensor
) -> tuple[float, list[int]]:
    """Return the largest difference between what was exported and PyTorch in a probability.

    It is NaN if one is. With it come the sizes of the batches that were computed, ascending.
    """
    batches = [images_NHWC[:1], *images_NHWC.split(_CHECKED_AT_ONCE)]
    differences = [
        np.abs(forward.probabilities(logits(batch).numpy()) - exported(batch).numpy()).max()
        for batch in batches
    ]
    sizes = sorted({len(batch) for batch in batches})
    return float(np.max(differences)), sizes  # unlike max(), NaN if one is


def _read_back(content: bytes, format: FormatName, threads: int) -> tuple[Forward, str]:
    """Return the function that the file's bytes hold, and what runs it."""
    if format == "onnx":
        model = onnx.OnnxModel(content, threads, "the exported file")
        return model, model.runtime
    with _quiet():
        program = torch.export.load(io.BytesIO(content)).module()

    @torch.inference_mode()
    def forward(images_NHWC: torch.Tensor) -> torch.Tensor:
        return program(images_NHWC)

    return forward, "torch.export.load"
