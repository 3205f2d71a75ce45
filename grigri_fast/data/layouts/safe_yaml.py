"""YAML that others wrote: read as plain values, without the traps of the format."""

import re
from typing import Any

import yaml

from ...errors import GrigriError

_MAX_CHARACTERS = 2**19
# Brackets and dashes that open a level. PyYAML takes time that is quadratic in the open ones;
# libyaml, which is ten times as fast, overflows the stack.
_OPENING = re.compile(r"[\[{]|[-?:][ \t]+(?=[-?:][ \t])")
_MAX_OPENING = 2000


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which the last would count."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(
                problem="a key stands twice", problem_mark=node.start_mark
            )
        return found


def parse(text: str, where: str) -> Any:
    """Return what a text in YAML holds.

    Args:
        text: the text.
        where: the file, for messages.

    Raises:
        GrigriError: if it is no YAML; or has a key twice, references (a few of them can stand for
            gigabytes), many thousand lines, or hundreds of levels.
    """
    if len(text) > _MAX_CHARACTERS or len(_OPENING.findall(text)) > _MAX_OPENING:
        raise GrigriError(f"{where}: not read, so long or nested a YAML")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader)):
            raise GrigriError(f"{where}: references (*name) are not read; write the values out")
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as e:
        raise GrigriError(f"{where}: not valid YAML: {str(e)[:200] or type(e).__name__}") from e
