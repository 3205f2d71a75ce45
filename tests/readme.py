"""What the manual shows."""

import re
from pathlib import Path

INFERENCE = Path(__file__).parent.parent / "grigri_fast" / "inference" / "README.md"


def the_manuals_program() -> str:
    """Return the program that labels a photograph without grigri-fast."""
    blocks = re.findall(r"```python\n(.*?)```", INFERENCE.read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "onnxruntime" in block]
    return program
