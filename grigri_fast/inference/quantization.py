"""An exported ONNX file in int8: convolutions and matrix products on 8-bit integers.

Post-training static quantization by ONNX Runtime's own tool
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), in its QDQ format:
weights per channel, activations per tensor, in the range that they have on training photographs.
BatchNorm is folded into the convolutions first. The heads stay in fp32, so that probabilities are
not rounded to 256 steps.

Shapes: N images of a batch, C classes.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import GrigriError
from ..runtime import files, streams
from . import onnx

QuantizeName = Literal["int8"]

# What has weights, and what may lie between two of them without leaving int8.
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "Concat")


@dataclass(frozen=True)
class Quantized:
    """What int8 costs and brings, measured on the validation part beside the fp32 file.

    Attributes:
        num_images: validation images that were scored.
        micro_f1, fp32_micro_f1: at the stored thresholds.
        low, high: 95 % interval of ``loss``, from a paired bootstrap.
        num_calibrated: training images that the ranges come from.
        size_ratio: bytes of the file, divided by those of the fp32 file.
        speed_ratio: images per second here, divided by those of the fp32 file.
    """

    num_images: int
    micro_f1: float
    fp32_micro_f1: float
    low: float
    high: float
    num_calibrated: int = 0
    size_ratio: float = 0.0
    speed_ratio: float = 0.0

    @property
    def loss(self) -> float:
        """By how much micro-F1 is lower than that of the fp32 file; below 0 it is higher."""
        return self.fp32_micro_f1 - self.micro_f1


def to_int8(content: bytes, batches: Iterable[torch.Tensor]) -> bytes:
    """Return an exported file's content in int8, without metadata (see :func:`with_metadata`).

    Args:
        content: of an fp32 file of ``export``.
        batches: images to calibrate with, uint8 (N, size, size, 3).

    Raises:
        GrigriError: if ONNX Runtime cannot quantize the network.
    """
    import onnx as onnx_package

    with tempfile.TemporaryDirectory() as name, streams.without_logs():
        plain, folded, made = (Path(name) / f"{part}.onnx" for part in ("plain", "folded", "int8"))
        plain.write_bytes(content)
        try:
            onnx.fold(plain, folded)
            model = onnx_package.load(folded)
            _share_equal(model.graph)
            onnx_package.save(model, folded)
            onnx.quantize(
                folded,
                made,
                _Images(batches),
                op_types_to_quantize=[*_WITH_WEIGHTS, *_BETWEEN],
                nodes_to_exclude=_heads(model.graph),
            )
        except GrigriError:
            raise
        except Exception as e:  # as many kinds as reasons, with nothing in common
            reason = " ".join(str(e).split())[:200]
            raise GrigriError(f"--quantize int8: ONNX Runtime cannot quantize it: {reason}") from e
        return made.read_bytes()


def with_metadata(content: bytes, about: dict[str, Any]) -> bytes:
    """Return a file's content with metadata and its checksum, as ``predict`` reads it."""
    import onnx as onnx_package

    model = onnx_package.load_from_string(content)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = onnx.KEY, files.to_json(about | {"sha256": "0" * 64})
    return onnx.sealed(model.SerializeToString())


class _Images:
    """Images as ONNX Runtime's calibration asks for them, a batch at a time."""

    def __init__(self, batches: Iterable[torch.Tensor]) -> None:
        self._batches: Iterator[torch.Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input, None at the end."""
        images_NHWC = next(self._batches, None)
        return None if images_NHWC is None else {onnx.INPUT: images_NHWC.numpy()}


def _share_equal(graph: Any) -> None:
    """Keep one of equal weights: folding copies those that also serve the mirror image."""
    kept: dict[tuple[Any, ...], str] = {}
    new_names: dict[str, str] = {}
    for tensor in list(graph.initializer):
        key = tensor.data_type, tuple(tensor.dims), tensor.raw_data
        if not tensor.raw_data:
            continue
        if key in kept:
            new_names[tensor.name] = kept[key]
            graph.initializer.remove(tensor)
        else:
            kept[key] = tensor.name
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = new_names.get(name, name)


def _heads(graph: Any) -> list[str]:
    """Return the names of the nodes with weights after which none follows: those of the heads."""
    leads_to_weights: set[str] = set()  # tensors that a node with weights is computed from
    names = []
    for node in reversed(graph.node):
        has_weights = node.op_type in _WITH_WEIGHTS
        follows = any(output in leads_to_weights for output in node.output)
        if has_weights and not follows:
            names.append(node.name)
        if has_weights or follows:
            leads_to_weights.update(node.input)
    return names
