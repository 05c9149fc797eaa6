"""The package as a whole: its public names, its import order, what importing it pulls in."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import ctcspeech

PACKAGE = Path(ctcspeech.__file__).parent

# Rooms from the ground up: a module imports only from the rows above its own.
LAYERS = [
    ["errors", "files", "progress", "hypothesis", "optimizer", "runlog"]
    + ["_core", "_ctc_terms", "mp3", "pcm", "wsola"],
    ["feature_files", "align", "language_model", "recurrent"],
    ["audio", "features", "alphabet", "metrics", "ctc", "emissions", "segment"]
    + ["language_model_build"],
    ["augment", "manifest", "decoder", "greedy", "stitch", "model", "formats", "normalize"]
    + ["confidence"],
    ["dataset", "check", "corpora", "checkpoint", "config", "recordings"] + ["decoder_settings"],
    ["processes", "training_data", "validation", "transcribe"],
    ["train", "evaluate", "align_text", "tune"],
    ["align_split", "plot"],
    ["split_writer", "info"],
    ["cli"],
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


def test_every_module_declares_its_names():
    for path in PACKAGE.glob("*.py"):
        if path.stem.startswith("_"):
            continue
        module = importlib.import_module(f"ctcspeech.{path.stem}")
        for name in module.__all__:
            assert hasattr(module, name), f"{path.name} names {name} in __all__"


def test_imports_go_one_way():
    level = {name: i for i, row in enumerate(LAYERS) for name in row}
    for path in PACKAGE.glob("*.py"):
        if path.stem not in level:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            parts = (getattr(node, "module", "") or "").split(".")
            if not isinstance(node, ast.ImportFrom) or parts[0] != "ctcspeech":
                continue
            imported = parts[1:2] or [alias.name for alias in node.names]
            for name in imported:
                if name in level:
                    assert level[name] < level[path.stem], f"{path.stem} imports {name}"


def test_import_is_light():
    code = "import ctcspeech, sys; print(' '.join(m for m in sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    for heavy in ("torch", "torchaudio", "pyctcdecode", "matplotlib", "soundfile"):
        assert heavy not in modules
