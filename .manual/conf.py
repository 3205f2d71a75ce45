"""How Sphinx makes searchable pages of the README and the manual (CONTRIBUTING.md has the command).

The pages on the web and the files in the repository are the same Markdown. What Sphinx needs
beyond that, a list of pages and pictures that follow the reader's theme, is added as it reads.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the manual's table of chapters has their order
MANUAL = (ROOT / "grigri_fast/README.md").read_text()
CHAPTERS = re.findall(r"^\| \[\w+\]\((\w+)/README\.md\)", MANUAL, re.M)

project = "grigri-fast"
root_doc = "README"
include_patterns = ["*.md", "grigri_fast/**README.md", "benchmarks/**.md"]
exclude_patterns = [".*", "**/.*", "runs"]
extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = ["toc.not_included"]  # the records, which the benchmarks' page links to
copybutton_prompt_text = "$ "
html_theme = "furo"
html_title = "grigri-fast"
html_copy_source = html_show_copyright = html_show_sphinx = html_use_index = False

PICTURE = re.compile(r'<picture>.*?srcset="(.*?)".*?alt="(.*?)" src="(.*?)".*?</picture>', re.S)
LINK = re.compile(r"\[([^\[\]]+)\]\(([\w./-]+)\)")
PAGES = """

```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""


def to_a_page(link: re.Match, folder: Path) -> str:
    """Return a link to a folder as one to its README, or as its text where there is none."""
    text, target = link.groups()
    if not (folder / target).is_dir():
        return link[0]
    return f"[{text}]({target}/README.md)" if (folder / target / "README.md").exists() else text


def as_sphinx_reads(app, docname: str, source: list[str]) -> None:
    """Give Sphinx what it needs: pictures for light and dark, pages as targets, their list."""
    text = PICTURE.sub(r"![\2](\3){.only-light}\n![\2](\1){.only-dark}", source[0])
    folder = (ROOT / docname).parent
    text = LINK.sub(lambda link: to_a_page(link, folder), text)
    if docname == root_doc:
        manual = ["grigri_fast/README", *(f"grigri_fast/{name}/README" for name in CHAPTERS)]
        more = ["benchmarks/README", "CHANGELOG", "CONTRIBUTING", "SECURITY"]
        text += PAGES.format(caption="The manual", pages="\n".join(manual))
        text += PAGES.format(caption="The project", pages="\n".join(more))
    source[0] = text


def with_an_index(app, error: Exception | None) -> None:
    """Let the folder open at the README."""
    if error is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app) -> None:
    """Add to Sphinx what is above."""
    app.connect("source-read", as_sphinx_reads)
    app.connect("build-finished", with_an_index)
