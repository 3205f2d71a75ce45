"""OpenVINO computes ONNX files of ``export`` on the CPU, in bf16 where the CPU is fast at it."""

import importlib.util
import json
import sys
from typing import Any

import torch

from ..errors import GrigriError

_CONVERTER = "openvino.tools.ovc"
_AT_ONCE = 4  # images; more at once are no faster (benchmarks/README.md)


def is_installed() -> bool:
    """Return whether OpenVINO is there; it is an extra."""
    return importlib.util.find_spec("openvino") is not None


def _imported() -> Any:
    """Return OpenVINO, imported without its converter, which nothing here needs.

    The converter tells Google Analytics that it was imported, each time, and keeps a number for the
    user in ``~/intel`` (openvino-telemetry 2025.2). A program that imports it itself gets it.
    """
    is_there = sys.modules.setdefault(_CONVERTER, None) is not None  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    finally:
        if not is_there:
            del sys.modules[_CONVERTER]


class OpenVinoModel:
    """An ONNX file in memory, as a function: uint8 (N, size, size, 3) -> float32 (N, C).

    Each thread computes images of its own (a stream of OpenVINO), a few at a time, and is free to
    change its CPU: others read and decode meanwhile, so that a thread may get less done.

    Args:
        content: the file.
        key: of the metadata.
        amp: ``fp32`` or ``bf16``.
        threads: streams.
        source: what to call the file in an error.

    Raises:
        GrigriError: if OpenVINO is not installed, or cannot read the file.
    """

    def __init__(self, content: bytes, key: str, amp: str, threads: int, source: object) -> None:
        if not is_installed():
            raise GrigriError(
                "--engine openvino needs openvino, not installed here: pip install openvino"
            )
        openvino = _imported()
        from openvino import properties
        from openvino.properties import hint

        self.runtime = f"OpenVINO {openvino.__version__.split('-')[0]}"
        core = openvino.Core()
        setting = {
            properties.inference_num_threads: threads,
            properties.num_streams: threads,
            hint.enable_cpu_pinning: False,
            hint.inference_precision: getattr(openvino.Type, {"fp32": "f32", "bf16": "bf16"}[amp]),
        }
        try:
            network = core.read_model(content)
            self._metadata = network.get_rt_info(["framework", key]).astype(str)
            self._queue = openvino.AsyncInferQueue(
                core.compile_model(network, "CPU", setting), threads
            )
        except RuntimeError as e:  # its only kind
            raise GrigriError(f"{source}: {self.runtime} cannot read it: {str(e)[:200]}") from e
        self._results: dict[int, torch.Tensor] = {}
        self._queue.set_callback(self._keep)

    def __call__(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of images."""
        self._results.clear()
        parts = images_NHWC.split(_AT_ONCE)
        for i, part in enumerate(parts):
            self._queue.start_async({0: part.numpy()}, i)
        self._queue.wait_all()
        return torch.cat([self._results[i] for i in range(len(parts))])

    def _keep(self, request: Any, number: int) -> None:
        self._results[number] = torch.from_numpy(request.get_output_tensor(0).data.copy())

    def metadata(self) -> dict[str, Any]:
        """Return what the file says about the model, its input and its output.

        Raises:
            ValueError: if it is not an exported file.
        """
        found: dict[str, Any] = json.loads(self._metadata)
        return found
