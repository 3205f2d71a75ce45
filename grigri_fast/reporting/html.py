"""Pages from templates: one HTML file that needs nothing but itself.

A page has no script and nothing to load: a policy in its head forbids both, so that a name that
got into it unescaped could still do nothing. It is light or dark as the reader's system is.
"""

import base64
import functools
import math
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, pass_eval_context
from jinja2.nodes import EvalContext
from markupsafe import Markup

_PACKAGE = "grigri_fast.reporting"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(template: str, package: str = "", **values: Any) -> str:
    """Return a text of ``templates/``; in HTML, values are escaped, but for ``markupsafe.Markup``.

    Templates of another ``package`` may include those of this one.

    Raises:
        jinja2.UndefinedError: if a value is missing.
    """
    return _environment(package).get_template(template).render(values, policy=POLICY)


def style() -> str:
    """Return the style sheet of all pages."""
    return (resources.files(_PACKAGE) / "templates" / "style.css").read_text("utf-8")


def printable(text: object) -> str:
    """Return text in which what cannot be printed is an escape that can be read.

    Control characters, marks that turn the direction of writing, bytes of a file name that are not
    UTF-8.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def images(count: int) -> str:
    """Return ``1 image`` or ``1,234 images``."""
    return f"{count:,} image{'' if count == 1 else 's'}"


@functools.cache
def _environment(package: str = "") -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (package, _PACKAGE) if name]),
        autoescape=lambda name: ".html" in (name or ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_without_unprintable,
    )
    environment.filters |= {
        "number": _number,
        "count": lambda value: f"{value:,}",
        "cell": lambda text: text.replace("|", "\\|").replace("\n", " "),  # of Markdown
        "base64": lambda content: base64.b64encode(content).decode(),
    }
    environment.globals["images"] = images
    return environment


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


@pass_eval_context
def _without_unprintable(context: EvalContext, value: Any) -> Any:
    return printable(value) if context.autoescape and not isinstance(value, Markup) else value
