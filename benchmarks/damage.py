"""Ways to damage a file: bits, bytes, numbers, blocks, cuts, splices, lines, cells of tables."""

import random
import re
import struct
import zlib

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged(
    content: bytes, others: list[bytes], rng: random.Random, is_table: bool = False
) -> bytes:
    """Return ``content`` with one to four kinds of damage; those of tables are for labels."""
    kinds = (*_DAMAGES, *_OF_TABLES * 2) if is_table else _DAMAGES
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(kinds)(bytearray(content), others, rng)
    return content


def _place(data: bytearray, rng: random.Random) -> int:
    """Return a place, half of the time among the first bytes, where the headers are."""
    return rng.randrange(max(1, min(len(data), 100 if rng.random() < 0.5 else len(data))))


def _flip(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 2, 8, 40)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 3, 20)) if data else 0):
        data[_place(data, rng)] = rng.randrange(256)
    return bytes(data)


def _number(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    at, form = _place(data, rng), rng.choice(("B", "<H", ">H", "<I", ">I"))
    value = rng.choice(_INTERESTING) & (256 ** struct.calcsize(form) - 1)
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(data)


def _cut(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    return bytes(data[: _place(data, rng)])


def _remove(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 4, 64))]
    return bytes(data)


def _repeat(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.choice((1, 16, 256))] * rng.choice((1, 2, 50))
    return bytes(data)


def _splice(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return bytes(data[: _place(data, rng)]) + other[_place(bytearray(other), rng) :]


def _lines(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    lines = bytes(data).split(b"\n")
    i = rng.randrange(len(lines))
    odd = (b"", b"9" * 5000, b'"', b"\0", b"\xff\xfe", b"[" * 3000, b"a,b,c,d,e,f", b"-1", b"1e999")
    new = rng.choice((lines[i], rng.choice(lines), *odd))
    lines[i : i + rng.randrange(2)] = [new]
    return b"\n".join(lines)


def _sums(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    """Damage a PNG's chunks and mend their checksums, so that a decoder gets deeper."""
    at = 8
    while data[:4] == b"\x89PNG" and at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if length and rng.random() < 0.5:
            data[rng.randrange(at + 8, end)] = rng.randrange(256)
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


_DAMAGES = (_flip, _overwrite, _number, _cut, _remove, _repeat, _splice, _lines, _sums)


def _cells(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    """Swap, empty, double or change cells of a row, or put another value into one."""
    lines = bytes(data).split(b"\n")
    for _ in range(rng.choice((1, 1, 3))):
        i = rng.randrange(len(lines))
        cells = lines[i].split(b",")
        k, other = rng.randrange(len(cells)), rng.randrange(len(cells))
        what = rng.randrange(5)
        if what == 0:
            cells[k], cells[other] = cells[other], cells[k]
        elif what == 1:
            cells[k] = b""
        elif what == 2:
            cells.insert(k, cells[other])
        elif what == 3:
            del cells[k]
        else:
            cells[k] = rng.choice(_CELLS)
        lines[i] = b",".join(cells)
    return b"\n".join(lines)


_CELLS = (
    *(b"0", b"1", b"-1", b"0.5", b"nan", b"None", b"TRUE", b"", b" ", b"cat", b"cat|dog"),
    *(b"cat dog", b"cat;dog", b'"cat, dog"', b'"[""cat""]"', b"[]", b"{}", b"train", b"a.jpg"),
)


def _words(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    """Put one word of the file in the place of another one."""
    words = sorted(set(re.findall(rb"[\w.]+", bytes(data))))
    if not words:
        return bytes(data)
    old, new = rng.choice(words), rng.choice(words)
    return re.sub(rb"\b" + re.escape(old) + rb"\b", new, bytes(data), count=rng.choice((0, 1)))


def _drop_lines(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    lines = bytes(data).split(b"\n")
    at = rng.randrange(len(lines))
    del lines[at : at + rng.choice((1, 1, 2, 5))]
    return b"\n".join(lines)


def _encoding(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    text = bytes(data).decode("utf-8", errors="replace")
    kinds = ("utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32")
    return text.encode(rng.choice(kinds), errors="replace")


def _delimiters(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    old, new = rng.choice(b",;\t |\n"), rng.choice((b",", b";", b"\t", b" ", b"|", b"\r\n", b"\r"))
    return re.sub(re.escape(bytes([old])), lambda _: new, bytes(data), count=rng.choice((0, 0, 1)))


_OF_TABLES = (_cells, _cells, _words, _drop_lines, _encoding, _delimiters)
