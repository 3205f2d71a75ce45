"""What the README shows."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def the_readmes_program() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (program,) = [block for block in blocks if "onnxruntime" in block]
    return program
