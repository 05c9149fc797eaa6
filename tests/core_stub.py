"""Writes ctcspeech/_core.pyi from the native core as it is built: after a change of csrc/bindings/.

python tests/core_stub.py
"""

import re
import subprocess
from pathlib import Path

from ctcspeech import _core

STUB = Path(_core.__file__ or "").parent / "_core.pyi"
ARRAY = re.compile(r"Annotated\[NDArray\[numpy\.(\w+)\], dict\((?:[^()]|\([^()]*\))*\)\]")
HEAD = '''"""The native core of ctcspeech, for mypy. Written by tests/core_stub.py."""

import enum
from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy
from numpy.typing import NDArray

class Array(Protocol):
    """An array of NumPy, torch or whatever else speaks DLPack, in host memory."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

'''
CUDA = '''
# Only where the build holds CUDA kernels (cuda_built):

def ctc_cuda_workspace(input: CtcInput, output: CtcOutput, device: int, longest: int) -> int: ...
def ctc_cuda_loss(
    input: CtcInput, output: CtcOutput, device: int, longest: int, stream: int, workspace: int,
    size: int,
) -> None: ...
def ctc_cuda_scale(
    input: CtcInput, output: CtcOutput, factors: int, single: bool, device: int, stream: int
) -> None: ...
'''  # fmt: skip


def stub() -> str:
    from nanobind.stubgen import StubGen

    generator = StubGen(_core)
    generator.put(_core)
    text = generator.get()
    text = text[re.search(r"^(?:class|def|@overload)", text, re.M).start() :]
    lines = []
    for line in text.splitlines():
        given, arrow, returned = line.partition(") -> ")
        returned = ARRAY.sub(r"NDArray[numpy.\1]", returned)
        lines.append(ARRAY.sub("Array", given) + arrow + returned)
    kept, skip = [], False
    for line in lines:  # those are in CUDA, whatever this build holds
        if re.match(r"[@\w]", line):
            skip = line.startswith("def ctc_cuda_")
        if not skip:
            kept.append(line)
    text = "\n".join(kept).rstrip() + "\n"
    # overloads that differ by the type of an array
    text = re.sub(r"@overload\n(def .*)\n\n@overload\n\1\n", r"\1\n", text)
    text = text.replace("-> object:", "-> Any:").replace("-> dict:", "-> dict[str, Any]:")
    text = text.replace("-> list:", "-> list[Any]:").replace("-> tuple:", "-> tuple[Any, ...]:")
    text = re.sub(r"def __eq__\(self, arg: \w+, /\)", "def __eq__(self, arg: object, /)", text)
    return HEAD + text + CUDA


if __name__ == "__main__":
    STUB.write_text(stub())
    subprocess.run(["ruff", "format", "-q", str(STUB)], check=True)
