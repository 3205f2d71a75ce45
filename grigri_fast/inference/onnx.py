"""ONNX files of ``export``: what is in them, and how they are read and run.

A file holds its own SHA-256, so that damage is noticed. ONNX Runtime computes it on the CPU in
fp32; :mod:`openvino` in fp32 or bf16.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ..errors import GrigriError
from ..runs.checkpoint import ModelInfo
from ..runtime import compute, files
from ..runtime.compute import AmpName
from . import openvino
from .openvino import OpenVinoModel

EngineName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]

KEY = "grigri-fast"  # of the metadata
FORMAT = "grigri-fast export 1"
INPUT, OUTPUT = "images", "probabilities"
MAX_BYTES = 2**31 - 1  # a file is one protobuf message

# The file's SHA-256, taken while these digits are zeros.
_CHECKSUM = re.compile(rb'"sha256": "([0-9a-f]{64})"')
_QUANTIZED = b'"quantization": {'  # in the metadata of a file in int8


class OnnxModel:
    """An ONNX file in memory, as a function: uint8 (N, size, size, 3) -> float32 (N, C).

    ``source``: what to call the file in an error.

    Raises:
        GrigriError: if ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, content: bytes, threads: int, source: object) -> None:
        require("onnxruntime")
        import onnxruntime

        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work too
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # as many kinds as reasons, with nothing in common
            raise GrigriError(f"{source}: {self.runtime} cannot read it: {str(e)[:200]}") from e

    def __call__(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of images."""
        (probabilities_NC,) = self._session.run([OUTPUT], {INPUT: images_NHWC.numpy()})
        return torch.from_numpy(probabilities_NC)

    def metadata(self) -> dict[str, Any]:
        """Return what the file says about the model, its input and its output.

        Raises:
            ValueError, KeyError: if it is not an exported file.
        """
        return json.loads(self._session.get_modelmeta().custom_metadata_map[KEY])


def load(
    path: Path, threads: int, engine: EngineName = "onnxruntime", amp: str = "fp32"
) -> tuple[OnnxModel | OpenVinoModel, ModelInfo]:
    """Return the model in an exported file, as a function from images to probabilities.

    ``engine``: ``onnxruntime``, which computes in fp32; or ``openvino``, in ``amp``.

    Raises:
        GrigriError: if the file is missing, damaged or none of ``export``, or the engine is not
            installed or too old for it.
    """
    try:
        content = files.read_bytes(path, MAX_BYTES)
    except GrigriError as e:
        raise GrigriError(f"{path}: {e}") from e
    if not _CHECKSUM.search(content):
        raise GrigriError(f"{path}: not an ONNX file of grigri-fast export, or a damaged one")
    if sealed(content) != content:
        raise GrigriError(
            f"{path}: damaged, or changed by another program: its checksum does not fit its content"
        )
    model: OnnxModel | OpenVinoModel
    if engine == "openvino":
        model = OpenVinoModel(content, KEY, amp, threads, path)
    else:
        model = OnnxModel(content, threads, path)
    try:
        return model, info_of(model.metadata())
    except (ValueError, TypeError, KeyError) as e:
        raise GrigriError(f"{path}: its metadata cannot be used: {e}") from e


def pick_engine(path: Path, engine: EngineName, amp: AmpName) -> tuple[EngineName, AmpName]:
    """Return what computes an exported file, and in which number format.

    ``auto`` is OpenVINO where it is installed and the CPU is fast at bf16, which ONNX Runtime is
    not: of EfficientNet-Lite0 it needs 0.6 of the time (benchmarks/README.md). A file in int8 is
    for ONNX Runtime alone: by OpenVINO 2026.4 it lost 0.1 of micro-F1 (same place).

    Raises:
        GrigriError: for what an engine cannot do.
    """
    if engine == "auto":
        is_fast = compute.pick_amp(amp, torch.device("cpu")) == "bf16"
        is_better = is_fast and openvino.is_installed() and not _is_int8(path)
        engine = "openvino" if is_better else "onnxruntime"
    elif engine == "openvino" and _is_int8(path):
        raise GrigriError(
            f"--engine openvino: {path} is in int8, of which OpenVINO computes wrong labels;"
            " leave the option out, and ONNX Runtime computes it"
        )
    for flag, value, allowed in (
        ("--engine", engine, ("onnxruntime", "openvino")),
        ("--amp", amp, ("auto", "fp32", *(["bf16"] if engine == "openvino" else []))),
    ):
        if value not in allowed:
            raise GrigriError(f"{flag} {value} does not go with an exported file; leave it out")
    return engine, amp if engine == "openvino" else "fp32"


def _is_int8(path: Path) -> bool:
    """Return whether a file's metadata say that it is quantized; not of one that cannot be read."""
    with contextlib.suppress(GrigriError):
        return _QUANTIZED in files.read_bytes(path, MAX_BYTES)
    return False


def fold(source: Path, target: Path) -> None:
    """Write a file with constants and BatchNorm folded, and shapes, as quantization wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, target, skip_symbolic_shape=True)


def quantize(source: Path, target: Path, images: Any, **options: Any) -> None:
    """Write a file in int8: QDQ, weights per channel.

    ``images``: has ``get_next``, which returns inputs to calibrate with, and None at the end.
    """
    from onnxruntime import quantization

    quantization.quantize_static(
        source,
        target,
        images,
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        **options,
    )


def sealed(content: bytes) -> bytes:
    """Return a file's content with the checksum of what it holds in the place for it."""
    first, last = _CHECKSUM.search(content).span(1)
    result = bytearray(content)
    result[first:last] = b"0" * (last - first)
    result[first:last] = hashlib.sha256(result).hexdigest().encode()
    return bytes(result)


def info_of(metadata: dict[str, Any]) -> ModelInfo:
    """Return the information about the model that an exported file's metadata hold."""
    if metadata["format"] != FORMAT:
        raise ValueError(f"format {metadata['format']!r}, expected {FORMAT!r}")
    names = [field.name for field in dataclasses.fields(ModelInfo)]
    fields = {name: metadata[name] for name in names if name in metadata}
    fields |= {name: tuple(fields[name]) for name in ("mean", "std")}
    return ModelInfo(**fields)


def require(*packages: str) -> None:
    """Raise GrigriError unless the packages are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise GrigriError(
            f"ONNX needs {' and '.join(missing)}, not installed here: pip install"
            f" {' '.join(packages)}"
        )
