"""The package as a whole: its public names, its import order, what importing it pulls in."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ctcspeech

PACKAGE = Path(ctcspeech.__file__).parent

# Rooms from the ground up: a module imports only from its own folder and from the rows above.
ORDER = [
    ["_core", "errors", "files", "progress"],
    ["extras"],
    ["pen"],
    ["audio", "text"],
    ["lm"],
    ["ctc"],
    ["emissions"],
    ["model", "data", "decode"],
    ["exchange"],
    ["recognize", "train"],
    ["live", "align"],
    ["evaluate"],
    ["serve", "bulk", "compat", "info"],
    ["cli"],
    ["__main__"],
]


def test_sources_without_the_core_say_so(tmp_path):
    (tmp_path / "ctcspeech").mkdir()
    (tmp_path / "ctcspeech" / "__init__.py").write_text((PACKAGE / "__init__.py").read_text())
    command = [sys.executable, "-S", "-c", "import ctcspeech"]  # -S: no site-packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().endswith("pip install -e .")
    assert f"not built in {tmp_path / 'ctcspeech'}" in done.stderr


def test_public_names_exist():
    for name in ctcspeech.__all__:
        assert getattr(ctcspeech, name) is not None


def test_public_names_mean_one_thing_in_every_order_of_import():
    # A submodule of a public name's own name would take its place once it is imported.
    submodules = {path.stem for path in PACKAGE.glob("*.py")}
    submodules |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert not submodules & set(ctcspeech.__all__)
    # In a new process: each name before and after every module of the package, both ways round.
    code = """
import importlib, sys, types, ctcspeech
names, modules = sys.argv[1].split(), sys.argv[2].split()
first = {name: getattr(ctcspeech, name) for name in names}
for order in (modules, modules[::-1]):
    for module in order:
        importlib.import_module(module)
        for name in names:
            again = getattr(ctcspeech, name)
            assert again is first[name], (name, module)
            assert not isinstance(again, types.ModuleType), (name, module)
"""
    names = [name for name in ctcspeech.__all__ if name != "__version__"]
    listed = [name for name in modules() if not name.endswith("__main__")]
    for order in (names, names[::-1]):
        command = [sys.executable, "-c", code, " ".join(order), " ".join(listed)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules():
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path, names):
    """The modules of ctcspeech that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found = [node.module]
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(name in names for name in inner):
                found = [name if name in names else node.module for name in inner]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] == "ctcspeech")


def test_every_module_declares_its_names():
    for name, path in modules().items():
        if name.split(".")[1:2] == ["cli"] or path.stem.startswith("__"):
            continue
        module = importlib.import_module(name)
        for public in module.__all__:
            assert hasattr(module, public), f"{path.name} names {public} in __all__"


def test_imports_go_one_way():
    level = {name: i for i, row in enumerate(ORDER) for name in row}
    names = {*modules(), "ctcspeech._core"}
    for name, path in modules().items():
        if name == "ctcspeech":
            continue
        room = name.split(".")[1]
        assert room in level, f"{name} is in no room of the order"
        for imported in imports_of(path, names):
            if imported == "ctcspeech":  # its version, and what the core was built with
                continue
            other = imported.split(".")[1]
            assert other in level, f"{name} imports {imported}, which is in no room"
            assert other == room or level[other] < level[room], f"{name} imports {imported}"


def test_no_circle_within_a_folder():
    names = set(modules())
    graph = {}
    for name, path in modules().items():
        graph[name] = {i for i in imports_of(path, names) if i != name and i in names}
        graph[name].discard("ctcspeech")
        graph[name].discard(name.rpartition(".")[0])  # a folder's __init__ gathers its names
    for path in find_circle(graph):
        raise AssertionError(" -> ".join(path))


def find_circle(graph):
    """The first circle of a graph, as a list of one path; an empty list where there is none."""
    done, trail = set(), []

    def visit(name):
        if name in trail:
            return [[*trail[trail.index(name) :], name]]
        if name in done:
            return []
        trail.append(name)
        for other in sorted(graph.get(name, ())):
            circle = visit(other)
            if circle:
                return circle
        trail.pop()
        done.add(name)
        return []

    for name in sorted(graph):
        circle = visit(name)
        if circle:
            return circle
    return []


def test_find_circle():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


# The folders of csrc from the ground up, as above.
CSRC_ORDER = [
    ["base"],
    ["ctc"],
    ["ctc/cpu", "ctc/cuda", "ngram", "neural", "align", "gru"],
    ["ngram/estimate", "beam"],
    ["bindings"],
]
# ctc.cpp, which chooses the kernels, stands above the folders of its kernels.
CSRC_UPWARD = {"ctc/ctc.cpp": {"ctc/cpu", "ctc/cuda"}}


def test_includes_go_one_way():
    csrc = PACKAGE.parent / "csrc"
    if not csrc.is_dir():
        pytest.skip("installed without its sources")
    level = {name: i for i, row in enumerate(CSRC_ORDER) for name in row}
    files = {p.relative_to(csrc).as_posix(): p for p in csrc.rglob("*.*") if p.is_file()}
    graph = {}
    for name, path in files.items():
        folder = name.rpartition("/")[0]
        assert folder in level, f"csrc/{name} is in no folder of the order"
        graph[name] = set(re.findall(r'^#include "([^"]+)"', path.read_text(), re.M))
        for included in graph[name]:
            assert included in files, f"csrc/{name} includes {included}, not a path below csrc"
            other = included.rpartition("/")[0]
            allowed = other == folder or level[other] < level[folder]
            assert allowed or other in CSRC_UPWARD.get(name, ()), f"csrc/{name} includes {included}"
    assert find_circle(graph) == []


def test_import_is_light():
    code = "import ctcspeech, sys; print(' '.join(m for m in sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    for heavy in ("torch", "torchaudio", "pyctcdecode", "matplotlib", "soundfile"):
        assert heavy not in modules


def test_loss_of_arrays_needs_no_torch():
    """With torch barred from being imported: the loss of two utterances of one frame, -ln 1/3."""
    code = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError
import numpy as np
from ctcspeech import ctc
loss, gradient = ctc.loss_and_grad(np.zeros((1, 2, 3), np.float32), [[1], [2]], 1, 1)
assert abs(loss - np.log(3)) < 1e-6, loss
assert np.allclose(gradient[0, 0], [1 / 6, -1 / 3, 1 / 6]), gradient
gamma = ctc.posteriors(np.zeros((1, 3)), [1], 1, 1)
assert gamma.tolist() == [[0, 1, 0]]
try:
    ctc.ctc_loss
except ImportError as error:
    assert "torch" in str(error)
else:
    raise AssertionError("the loss of tensors without torch")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
