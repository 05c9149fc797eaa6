"""ctcspeech/_core.pyi, by which mypy checks the use of the native core, lists what the core has."""

import ast
import enum
import inspect

from core_stub import STUB

from ctcspeech import _core

NOT_OF_THE_CORE = {"Array"}


def listed():
    """Names at the top of the stub, and for classes their members."""
    names = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.setdefault(node.name, set()).add("")
        elif isinstance(node, ast.ClassDef) and node.name not in NOT_OF_THE_CORE:
            members = names.setdefault(node.name, set())
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    members.add(member.name)
                elif isinstance(member, ast.Assign):
                    members.add(member.targets[0].id)
                elif isinstance(member, ast.AnnAssign):
                    members.add(member.target.id)
    return names


def members(value):
    if not inspect.isclass(value):
        return {""}
    if issubclass(value, enum.Enum):
        return set(value.__members__)
    return {name for name in vars(value) if not name.startswith("_")}


def test_the_stub_lists_what_the_core_has():
    built = {name: members(getattr(_core, name)) for name in dir(_core) if name[0] != "_"}
    stub = listed()
    if not _core.cuda_built():
        stub = {name: rest for name, rest in stub.items() if not name.startswith("ctc_cuda_")}
    advice = "after a change of csrc/bindings/ run python tests/core_stub.py"
    assert set(built) - set(stub) == set(), advice
    for name, wanted in stub.items():
        assert name in built, f"the core has no {name}: {advice}"
        ours = {m for m in wanted if not m.startswith("_")}
        assert ours == built[name], f"{name}: {advice}"
