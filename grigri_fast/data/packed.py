"""Names and paths of many images as two arrays, instead of a Python object for each."""

import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np

Item = TypeVar("Item", str, Path)

_ANY_NAME = "surrogatepass"  # a file's name need not be UTF-8 (os.fsdecode)
_AT_A_TIME = 1024  # items that are looked at in a row


class Packed(Sequence[Item], Generic[Item]):
    """A sequence of texts or paths that takes the bytes of each and 8 more.

    A list takes about 100 bytes per text beside its own, and 300 to 700 per path. An item is made
    when it is asked for, in about a microsecond.

    Args:
        items: texts, or paths, which may be given as texts, too.
        kind: ``str`` or ``Path``, what the items are.
    """

    def __init__(self, items: Iterable[str | Path], kind: Callable[[str], Item]) -> None:
        content, ends = bytearray(), array("q", [0])
        for item in items:
            content += str(item).encode("utf-8", _ANY_NAME)
            ends.append(len(content))
        self._content = bytes(content)
        self._kind: Callable[[str], Item] = kind
        self._ends = np.frombuffer(ends, dtype=np.int64)  # item i is from ends[i] to ends[i + 1]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = operator.index(index)
        i += len(self) if i < 0 else 0
        if not 0 <= i < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self._made(self._ends[i], self._ends[i + 1])

    def __iter__(self) -> Iterator[Item]:
        for first in range(0, len(self), _AT_A_TIME):
            ends = self._ends[first : first + _AT_A_TIME + 1].tolist()
            yield from map(self._made, ends[:-1], ends[1:])

    def _made(self, start: int, end: int) -> Item:
        return self._kind(self._content[start:end].decode("utf-8", _ANY_NAME))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self._content == other._content and np.array_equal(self._ends, other._ends)
        if isinstance(other, list | tuple):
            return len(self) == len(other) and all(map(operator.eq, self, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        return repr(list(self))


def names(items: Iterable[str]) -> Packed[str]:
    """Return texts, packed."""
    return items if isinstance(items, Packed) else Packed(items, str)


def paths(items: Iterable[str | Path]) -> Packed[Path]:
    """Return paths, packed; ``items`` may be texts."""
    return items if isinstance(items, Packed) and items._kind is Path else Packed(items, Path)
