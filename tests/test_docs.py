"""Every block of code in README.md and docs/ runs; every link and file that they name is there.

A page's blocks run in their order, in a copy of one workspace (`workspace` below):

    ```bash     by bash -euo pipefail
    ```python   in one namespace a page
    ```toml title="mine.toml"   (any language with a title) is written to that file

Blocks of other languages (`text`, `console`, ...) are not run; `sh` is for what sets up an
environment, which the script of the continuous integration runs. Before a block that cannot run
here stands a comment that says why: <!-- not run: needs a microphone -->
"""

import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import RATE, speak, write_corpus

from ctcspeech import Emissions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("bash", "python")
SETS_UP = ("sh",)
SHOWN = (
    "text",
    "console",
    "json",
    "toml",
    "yaml",
    "mermaid",
    "c",
    "javascript",
    "ini",
    "dockerfile",
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<code>.*?)^(?P=indent)```\s*$",
    re.M | re.S,
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    code: str
    line: int
    not_run: str | None


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip().rsplit("\n", 1)[-1]
        reason = re.fullmatch(r"\s*<!-- not run: (.+) -->\s*", before)
        title = re.search(r'title="([^"]+)"', match["rest"])
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match["language"], title and title[1], code, line, reason and reason[1]))
    return found


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """What the pages take for granted: recordings, texts, and a run with its model.

    The speech is of tones (tones.py): the words are strings of the letters a to d.
    """
    folder = tmp_path_factory.mktemp("workspace")
    for name, count, seed in (("train", 48, 1), ("dev", 12, 2), ("test", 12, 3)):
        write_corpus(folder / "data", name, count, seed)
    recordings = folder / "my-recordings"
    recordings.mkdir()
    random = np.random.default_rng(5)
    texts = []
    for i in range(40):
        text = " ".join("".join(random.choice(list("abcd"), 2)) for _ in range(3))
        soundfile.write(recordings / f"{i:02}.wav", speak(text, i), RATE)
        (recordings / f"{i:02}.txt").write_text(text + "\n")
        texts.append(text)
    (folder / "recordings").mkdir()
    for i in range(2):
        shutil.copy(recordings / f"{i:02}.wav", folder / "recordings")
    shutil.copy(recordings / "00.wav", folder / "call.wav")
    hour = np.concatenate(
        [np.append(speak(text, i), np.zeros(4000)) for i, text in enumerate(texts)]
    )
    soundfile.write(folder / "talk.flac", hour.astype(np.float32), RATE)
    (folder / "talk.txt").write_text("\n".join(texts) + "\n")
    many = (ROOT / "tests" / "golden" / "ngram" / "text.txt").read_text().splitlines()
    (folder / "texts.txt").write_text("\n".join(texts + many) + "\n")
    with gzip.open(folder / "texts.txt.gz", "wt") as file:
        file.write("\n".join(texts + many) + "\n")
    for name in ("benchmarks", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    reader = folder / "recipes" / "reader" / "reader.toml"  # of an hour; here it must take seconds
    small = {"epochs": "2", "channels": "[16, 16]", "hidden": "24"}
    for key, value in small.items():
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", reader.read_text(), flags=re.M)
        assert count == 1, f"{reader} has no single {key}"
        reader.write_text(text)
    shim = folder / "bin" / "ctcspeech"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ctcspeech "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IEXEC)
    (folder / "tones.toml").write_text((ROOT / "tests" / "tones.toml").read_text())
    bash("ctcspeech train tones.toml --run runs/digits/run", folder)
    labels = ["<blank>", " ", "a", "b", "c", "d"]
    scores = random.standard_normal((60, len(labels))).astype(np.float32)
    Emissions(scores, labels, blank=0, frame_shift_ms=20.0).save(folder / "call.npz")
    return folder


def bash(code: str, folder: Path) -> subprocess.CompletedProcess:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("CTCSPEECH_DATA", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        pytest.fail(f"exit code {done.returncode} of\n{code}\n{done.stdout}\n{done.stderr}")
    return done


def test_blocks_are_found():
    text = 'a\n<!-- not run: no GPU -->\n```bash\nx\n```\n```toml title="a.toml"\ny = 1\n```\n'
    first, second = blocks_of(text)
    assert first == Block("bash", None, "x\n", 4, "no GPU")
    assert second == Block("toml", "a.toml", "y = 1\n", 7, None)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        known = (*RUN, *SETS_UP, *SHOWN)
        assert block.language in known, f"{page.name}:{block.line}: language {block.language!r}"
        if block.language in SETS_UP:
            assert page.name in ("README.md", "index.md"), f"{page.name}:{block.line}: write bash"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page, request, tmp_path, monkeypatch):
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    if not any(b.language in RUN and not b.not_run for b in blocks):
        pytest.skip("no block to run")
    pytest.importorskip("torch")
    folder = tmp_path / "workspace"
    shutil.copytree(request.getfixturevalue("workspace"), folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    namespace: dict = {"__name__": "__main__"}
    for block in blocks:
        if block.not_run:
            continue
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.code)
        elif block.language == "bash":
            bash(block.code, folder)
        elif block.language == "python":
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, str(page), "exec"), namespace)


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs").rglob("*.ipynb")), ids=name_of)
def test_notebook_runs(notebook, tmp_path):
    """Every cell runs, and its checks (`assert`) hold."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = (
        "import sys, nbformat, nbclient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(book, timeout=120, kernel_name='python3').execute()\n"
        "print(sum(cell.cell_type == 'code' for cell in book.cells))\n"
    )
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code, str(notebook)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 3


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        generated = "reference/cli.md"  # written when the site is built
        path = (page.parent / target).resolve()
        assert path.exists() or path == ROOT / "docs" / generated, f"{page.name}: {target}"


def test_pictures_are_small():
    pictures = list((ROOT / "docs" / "assets").iterdir())
    assert len(pictures) > 5 and all(p.stat().st_size <= 100_000 for p in pictures)


def test_what_architecture_names_is_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:ctcspeech|csrc|tests|docs)/[\w./]*)`", text))
    assert len(named) > 50
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"docs/architecture.md names what is not there: {missing}"
    folders = {f"ctcspeech/{p.parent.name}/" for p in (ROOT / "ctcspeech").glob("*/__init__.py")}
    folders |= {f"{p.relative_to(ROOT)}/" for p in (ROOT / "csrc").rglob("*") if p.is_dir()}
    told = set(re.findall(r"`([\w/]+/)`", text))
    assert folders <= told, f"docs/architecture.md does not tell of {sorted(folders - told)}"
