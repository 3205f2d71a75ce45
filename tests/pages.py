"""HTML pages, read and opened in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Page(HTMLParser):
    """What an HTML page holds: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def probed(text: str, probe: str) -> str:
    """Return a page with a script that reports what the browser sees; the page forbids them all."""
    text, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert policies == 1
    return text.replace("</body>", f"{probe}</body>")


def browse(page: Path, profile: Path, scheme: str, width: int) -> tuple[str, list[str]]:
    """Return the document that a browser makes of a page, and what it says on its console."""
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def seen(page: Path, javascript: str, profile: Path, scheme: str, width: int) -> dict[str, Any]:
    """Return the object that a JavaScript function body returns in a page; the console is silent.

    Beside it: ``width``, what the window has, and ``needed``, what the content needs.
    """
    probe = f"""<pre id="probe"></pre><script>
addEventListener("load", () => {{
  const seen = (() => {{ {javascript} }})();
  const sizes = {{width: innerWidth, needed: document.documentElement.scrollWidth}};
  document.getElementById("probe").textContent =
    "PROBE" + JSON.stringify({{...seen, ...sizes}}) + "END";
}});
</script>"""
    with_probe = profile.with_name("probed.html")
    with_probe.write_text(probed(page.read_text(), probe))
    document, said = browse(with_probe, profile, scheme, width)
    assert not said, said
    return json.loads(html.unescape(re.search(r"PROBE(.*?)END</pre>", document)[1]))


def needed_width(page: Path, profile: Path, width: int) -> int:
    """Return how wide the content of a page is where there is room for ``width`` pixels.

    In a frame, since a window of the browser is never narrower than 500 pixels; high enough that no
    scroll bar takes some of the room.
    """
    tell = (
        "<script>onload=()=>parent.postMessage(document.documentElement.scrollWidth,'*')</script>"
    )
    inner, outer = profile.with_name("inner.html"), profile.with_name("outer.html")
    inner.write_text(probed(page.read_text(), tell))
    outer.write_text(
        f'<pre id="said"></pre><iframe src="{inner.as_uri()}" width="{width}" height="60000">'
        '</iframe><script>onmessage=e=>document.getElementById("said").textContent=`W${e.data}E`'
        "</script>"
    )
    document, _ = browse(outer, profile, "light", 1280)
    return int(re.search(r"W(\d+)E", document)[1])


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3 / 255
