"""Tensors and JSON in one file with a checksum: what checkpoints and training states are.

It is a safetensors file: nothing in it is executed when it is read, and a single flipped bit is
noticed.
"""

import hashlib
import json
import os
import re
from io import FileIO
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..errors import GrigriError
from ..runtime import files

_KEY = "grigri-fast"  # of the header: one JSON text with everything
# The file's SHA-256, taken while these digits are zeros. JSON within JSON has escaped quotes.
_CHECKSUM = re.compile(rb'sha256\\": \\"([0-9a-f]{64})')
_HEAD_BYTES = 4096  # it stands near the beginning
_MAX_HEADER_BYTES = 100 * 2**20  # that of safetensors


def write(
    path: Path,
    tensors: dict[str, torch.Tensor],
    fields: dict[str, Any],
    format_name: str,
    previous: Path | None = None,
) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        tensors: on any device.
        fields: what JSON can hold.
        format_name: what kind of file this is, and of which version.
        previous: a name under which the file that ``path`` was before is kept.

    Raises:
        GrigriError: if it cannot be written; what was at ``path`` before is intact.
    """
    header = {"format": format_name, "sha256": "0" * 64} | fields
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = bytearray(safetensors.torch.save(on_host, metadata={_KEY: json.dumps(header)}))
    where = _CHECKSUM.search(content)
    content[where.start(1) : where.end(1)] = hashlib.sha256(content).hexdigest().encode()
    files.write_atomic(path, content, previous)


def read(path: Path, format_name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and fields of a file that :func:`write` wrote.

    Raises:
        GrigriError: if the file is missing, damaged, changed, or of another format.
    """
    if not path.exists():
        raise GrigriError(f"{path}: no such checkpoint (has the run finished its first epoch?)")
    try:
        with files.open_regular(path) as file:  # one file, even if another replaces it meanwhile
            _require_size(file)
            file.seek(0)
            content = file.readall()
    except GrigriError as e:
        raise GrigriError(f"{path}: {e}") from e
    where = _CHECKSUM.search(content, 0, _HEAD_BYTES)
    if where is None:
        raise GrigriError(f"{path}: damaged checkpoint, or none of grigri-fast")
    whole = memoryview(content)
    checksum = hashlib.sha256(whole[: where.start(1)])
    checksum.update(b"0" * 64)
    checksum.update(whole[where.end(1) :])
    if checksum.hexdigest().encode() != where[1]:
        raise GrigriError(f"{path}: damaged checkpoint: its checksum does not fit its content")
    try:
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        if fields.pop("format") != format_name:
            raise GrigriError(f"{path}: not a file of this kind")
        fields.pop("sha256")
        return safetensors.torch.load(content), fields
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as e:
        raise GrigriError(f"{path}: damaged checkpoint header: {e}") from e


def _require_size(file: FileIO) -> None:
    """Raise GrigriError unless a file has the size that its header says: it may be of any."""
    wrong = GrigriError("damaged checkpoint, or none of grigri-fast")
    head = file.read(_HEAD_BYTES)
    length = 8 + int.from_bytes(head[:8], "little")
    if _CHECKSUM.search(head) is None or length > _MAX_HEADER_BYTES:
        raise wrong
    try:
        header = json.loads((head + file.read(max(0, length - len(head))))[8:length])
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        size = length + max(ends)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as e:
        raise wrong from e
    if os.fstat(file.fileno()).st_size != size:
        raise GrigriError("damaged checkpoint: its size is not what its header says")
