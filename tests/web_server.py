"""A web server on this machine that can be told to misbehave."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        url: its address, without a slash at the end.
        pages: content by name.
        etags: version by name; "" sends none.
        ranges: whether it knows Range.
        if_range: whether it knows If-Range.
        sizes: whether it says how large a file is.
        cuts: after so many bytes each of the next answers is cut.
        refusals: status of each of the next answers.
        silent: whether it sends a head and then nothing.
        asked: (name, Range, If-Range) of every question.
    """

    url: str
    pages: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    if_range: bool = True
    sizes: bool = True
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    silent: bool = False
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """Serve on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    site = server.site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site: Site = self.server.site
        name = self.path.lstrip("/")
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        site.asked.append((name, wanted, condition))
        if site.refusals:
            self.send_error(site.refusals.pop(0))
            return
        if name not in site.pages:
            self.send_error(404)
            return
        content, etag = site.pages[name], site.etags.get(name, '"1"')
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
        if site.if_range and condition != etag:
            first = 0
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if etag:
            self.send_header("ETag", etag)
        if first:
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        if site.sizes:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if site.silent:
            time.sleep(5)
            return
        body = content[first:]
        self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
