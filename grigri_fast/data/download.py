"""A file from the web: resumed where it was cut, and never half there under its own name."""

import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError

from ..errors import GrigriError
from ..runtime import files
from ..runtime.units import format_size

TIMEOUT_S = 60.0  # a server that is silent for so long has gone
WAITS_S = (1, 3, 10, 30)  # before each new try; as many tries in a row may bring nothing new
_PIECE_BYTES = 2**18
_TRANSIENT = (408, 425, 429)  # and all 5xx: worth another try
_GOES_ON = "what has arrived is kept, and the same command goes on"

Progress = Callable[[int, int | None], None]  # bytes that are here, and bytes in all if known


class _TryAgainError(Exception):
    """This try has failed, the next one may not; the message says why."""


class _StartOverError(_TryAgainError):
    """What is here is of another version of the file."""

    def __init__(self, have: int) -> None:
        super().__init__(f"changed on the server, so {format_size(have)} of it are of no use")


@dataclass(frozen=True)
class Origin:
    """Where a file comes from, and how its server names this version of it.

    Attributes:
        url: its address.
        etag, last_modified: headers of the answer, "" where there was none.
        num_bytes: its size, None where the server did not say.
    """

    url: str
    etag: str = ""
    last_modified: str = ""
    num_bytes: int | None = None

    @property
    def validator(self) -> str:
        """What If-Range may be asked with: a weak ETag may not (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def is_version_of(self, other: "Origin") -> bool:
        """Return whether both are the same version of the file."""
        return (self.validator, self.num_bytes) == (other.validator, other.num_bytes)


def download(
    url: str,
    path: Path,
    *,
    require: Callable[[int, int], None] = lambda to_come, in_all: None,
    on_progress: Progress = lambda done, total: None,
    log: Callable[[str], None] = lambda text: None,
) -> Origin:
    """Download a file to ``path``, or go on with it; where it is there already, do nothing.

    What has arrived is kept in ``<name>.part``, and where it comes from in ``<name>.json``. The
    rest is asked for only if the server still has the same version (Range with If-Range); a server
    that cannot do that starts over. A cut connection is tried again, as long as something new
    arrives. Before a byte is written, ``require`` is called with how many bytes will come and how
    many the file has; it raises GrigriError if they are too many.

    Raises:
        GrigriError: if the address names no host, the server has no such file, cannot be reached,
            or the disk is full.
    """
    _require_host(url)
    part = _part_of(path)
    if path.is_file():
        origin = read_origin(path)
        if origin is not None and origin.url == url:
            return origin
        path.unlink()  # of another address
    best, failures = _size(part), 0
    while True:
        try:
            origin = _try(url, path, require, on_progress, log)
            break
        except _TryAgainError as e:
            if isinstance(e, _StartOverError):
                part.unlink()
            failures = 1 if _size(part) > best else failures + 1
            best = max(best, _size(part))
            if failures > len(WAITS_S):
                advice = _GOES_ON if best else "--from names another place"
                raise GrigriError(f"{url}: {e}; {advice}") from e
            log(f"{path.name}: {e}; trying again in {WAITS_S[failures - 1]} s")
            time.sleep(WAITS_S[failures - 1])
    part.replace(path)
    return origin


def remove(path: Path) -> None:
    """Remove a file that :func:`download` has made, and what it has noted of it."""
    for left in (path, _part_of(path), _record_of(path)):
        left.unlink(missing_ok=True)


def _require_host(url: str) -> None:
    """Raise GrigriError for an address of the web without a host, or with a port that is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as e:  # a port that is no number, half of an IPv6 address
        raise GrigriError(f"{url}: the address names no host or port: {e}") from e
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise GrigriError(f"{url}: the address names no host")


def _part_of(path: Path) -> Path:
    """Return the file beside a download that holds what has arrived."""
    return path.with_name(f"{path.name}.part")


def _record_of(path: Path) -> Path:
    """Return the file beside a download that says where it comes from."""
    return path.with_name(f"{path.name}.json")


def read_origin(path: Path) -> Origin | None:
    """Return where a download comes from, None where that is not known."""
    try:
        return Origin(**json.loads(files.read_text(_record_of(path))))
    except (GrigriError, ValueError, TypeError):
        return None


def require_room(folder: Path, num_bytes: int, what: str) -> None:
    """Raise GrigriError unless so many bytes are free where ``folder`` is."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise GrigriError(
            f"{folder}: {what} takes {format_size(num_bytes)},"
            f" and {format_size(free)} are free there"
        )


# -------------------------------------------------------------------------------- one try


def _try(
    url: str,
    path: Path,
    require: Callable[[int, int], None],
    on_progress: Progress,
    log: Callable[[str], None],
) -> Origin:
    """Ask for what is missing and write it.

    Raises:
        _TryAgainError: if it was cut, or the server has other things to do.
        GrigriError: if another try would not help.
    """
    part, before = _part_of(path), read_origin(path)
    have = _size(part) if before is not None and before.url == url and before.validator else 0
    if before is not None and have and have == before.num_bytes:
        return before  # killed between the last byte and the name
    with _open(url, have, before) as response:
        origin, have = _origin_of(response, url, have, before, log)
        if origin.num_bytes is not None:
            require(origin.num_bytes - have, origin.num_bytes)
        try:
            with part.open("ab" if have else "wb") as file:
                if not have:
                    files.write_atomic(_record_of(path), json.dumps(asdict(origin)) + "\n")
                on_progress(have, origin.num_bytes)
                while piece := _read(response):
                    file.write(piece)
                    file.flush()  # what has arrived outlasts a kill
                    have += len(piece)
                    on_progress(have, origin.num_bytes)
                os.fsync(file.fileno())
        except OSError as e:
            raise GrigriError(f"{part}: cannot be written: {e.strerror or e}; {_GOES_ON}") from e
    if origin.num_bytes is not None and have < origin.num_bytes:
        raise _TryAgainError(f"cut after {have:,} of {origin.num_bytes:,} bytes")
    return origin


def _open(url: str, have: int, before: Origin | None) -> http.client.HTTPResponse:
    """Return the server's answer: the whole file, or what follows the bytes that are here."""
    headers = {"User-Agent": "grigri-fast", "Accept-Encoding": "identity"}
    if have and before is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": before.validator}
    # Not urlopen's opener: it would read file: and ftp: too.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as e:
        e.close()
        if e.code == 416 and have:  # it has fewer bytes than are here
            raise _StartOverError(have) from e
        said = f"the server says {e.code} {e.reason}"
        if e.code in _TRANSIENT or e.code >= 500:
            raise _TryAgainError(said) from e
        raise GrigriError(f"{url}: {said}; --from names another place") from e
    except (OSError, http.client.HTTPException) as e:
        reason = e.reason if isinstance(e, URLError) else e
        if isinstance(reason, ssl.SSLCertVerificationError) or "unknown url type" in str(reason):
            raise GrigriError(f"{url}: {reason}; --from names another place") from e
        raise _TryAgainError(_why(reason)) from e
    except ValueError as e:
        raise GrigriError(f"{url}: not an address: {e}") from e


def _origin_of(
    response: http.client.HTTPResponse,
    url: str,
    have: int,
    before: Origin | None,
    log: Callable[[str], None],
) -> tuple[Origin, int]:
    """Return what the answer is a version of, and how many of the bytes that are here it keeps."""
    etag, modified = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not sent or int(sent[1]) != have:
            raise _StartOverError(have)
        origin = Origin(url, etag, modified, int(sent[2]))
        if before is None or not origin.is_version_of(before):  # the server ignores If-Range
            raise _StartOverError(have)
        return origin, have
    if response.status != 200:
        raise GrigriError(f"{url}: the server says {response.status}; --from names another place")
    length = response.headers.get("Content-Length", "")
    origin = Origin(url, etag, modified, int(length) if length.isdigit() else None)
    if have and before is not None:
        same = origin.is_version_of(before)
        why = "the server does not resume" if same else "the file has changed on the server"
        log(f"{why}: starting over instead of going on after {format_size(have)}")
    return origin, 0


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_PIECE_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise _TryAgainError(_why(e)) from e


def _why(error: object) -> str:
    """Return what has gone wrong with a connection, in a few words."""
    if isinstance(error, TimeoutError):
        return f"the server was silent for {TIMEOUT_S:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return "cut in the middle"
    words = getattr(error, "strerror", None) or str(error)
    return words or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
