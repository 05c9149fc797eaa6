"""Load time, size and query time of n-gram models, against KenLM on the same model.

    ctcspeech lm build --order 4 --prune 0 0 1 1 text.txt -o model.arpa
    python benchmarks/ngram.py model.arpa text.txt --kenlm-source kenlm/ --kenlm-build kenlm/build

Needs the `kenlm` package. With KenLM's C++ sources and a build of them (`cmake`, its libraries and
build_binary) single queries are timed too, in random order, in one process that takes turns between
the models; benchmarks/ngram_query.cpp says how. Scores are compared before anything is timed.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ctcspeech import LanguageModel
from ctcspeech.lm.convert import convert

ROOT = Path(__file__).parent.parent
QUERY_SOURCES = ("arpa", "image", "kenlm", "probing", "table", "trie", "trie_build", "vocabulary")
FORMS = (  # name, kind, bits; KenLM's arguments for the same
    ("probing", "probing", 0, ["probing"]),
    ("trie", "trie", 0, ["trie"]),
    ("trie-8bit", "trie", 8, ["-q", "8", "-b", "8", "trie"]),
)


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    return (
        f"{model}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )


def timed(function, rounds: int) -> tuple[float, float, float]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times), max(times)


def spread(times: tuple[float, float, float], scale: float, unit: str) -> str:
    median, least, most = (t * scale for t in times)
    return f"{median:.3g} {unit} ({least:.3g} to {most:.3g})"


def make_binaries(arpa: Path, folder: Path, build_binary: Path | None) -> dict[str, Path]:
    paths = {}
    for name, kind, bits, arguments in FORMS:
        paths[f"ours-{name}"] = folder / f"ours-{name}"
        convert(arpa, folder / f"ours-{name}", kind, probability_bits=bits, backoff_bits=bits)
        if build_binary:
            paths[f"kenlm-{name}"] = folder / f"kenlm-{name}"
            command = [build_binary, *arguments, arpa, folder / f"kenlm-{name}"]
            subprocess.run(command, check=True, capture_output=True)
    return paths


def check(arpa: Path, paths: dict[str, Path], lines: list[str]) -> float:
    """The largest difference from kenlm's log10 of a word, over unquantised forms."""
    import kenlm

    witness = kenlm.Model(str(paths.get("kenlm-probing", arpa)))
    models = [LanguageModel.load(paths[f"ours-{name}"]) for name in ("probing", "trie")]
    worst = 0.0
    for line in lines:
        theirs = list(witness.full_scores(line))
        for model in models:
            ours = model.full_scores(line)
            assert [s[1:] for s in ours] == [t[1:] for t in theirs], line
            worst = max(worst, *(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)))
    assert worst < 1e-6, worst
    return worst


def python_rows(arpa: Path, paths: dict[str, Path], lines: list[str], rounds: int) -> list[str]:
    import kenlm

    rows = []
    tokens = sum(len(line.split()) + 1 for line in lines)
    for name, path in [("ARPA", arpa), *paths.items()]:
        opened = (lambda p: kenlm.Model(str(p))) if "kenlm" in name else LanguageModel.load
        few = 3 if name == "ARPA" else rounds
        load = timed(lambda p=path, o=opened: o(p), few)
        model = opened(path)
        score = timed(lambda m=model: [m.score(line) for line in lines], rounds)
        label = "ours, from ARPA" if name == "ARPA" else name
        rows.append(
            f"| {label} | {path.stat().st_size / 1e6:.1f} | {spread(load, 1e3, 'ms')} "
            f"| {spread(score, 1e9 / tokens, 'ns')} |"
        )
        if name == "ARPA":
            load = timed(lambda: kenlm.Model(str(arpa)), few)
            rows.append(f"| kenlm, from ARPA | | {spread(load, 1e3, 'ms')} | |")
    return rows


def native_rows(
    arguments: argparse.Namespace, paths: dict[str, Path], folder: Path
) -> tuple[list[str], str]:
    driver = folder / "ngram_query"
    command = ["g++", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}"]
    command += [str(ROOT / "benchmarks/ngram_query.cpp"), str(ROOT / "csrc/ngram/ngram.cpp")]
    command += [str(ROOT / f"csrc/ngram/{name}.cpp") for name in QUERY_SOURCES]
    if arguments.kenlm_build:
        command += ["-DWITH_KENLM", "-DKENLM_MAX_ORDER=6", f"-I{arguments.kenlm_source}"]
        command += [f"-L{arguments.kenlm_build / 'lib'}", "-lkenlm", "-lkenlm_util"]
        command += ["-lz", "-lbz2", "-llzma"]
    subprocess.run([*command, "-o", str(driver), "-pthread"], check=True)
    models = [f"{name}:{path}" for name, path in paths.items()]
    output = subprocess.run(
        [str(driver), str(arguments.text), str(arguments.queries), *models],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    sums, times = {}, {}
    for line in output.splitlines():
        name, what, *numbers = line.split()
        (sums if what == "sum" else times)[name] = numbers
    for name, numbers in sums.items():
        ours, theirs = sums.get(f"ours-{name[6:]}"), numbers
        if name.startswith("kenlm") and "bit" not in name and ours:
            assert abs(float(ours[0]) - float(theirs[0])) < 1, (name, ours, theirs)
    rows = [
        f"| {name} | {median} ({least} to {most}) |"
        for name, (median, least, most) in times.items()
    ]
    return rows, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arpa", type=Path)
    parser.add_argument("text", type=Path, help="whose words are asked for, a sentence a line")
    parser.add_argument("--kenlm-source", type=Path, help="KenLM's sources")
    parser.add_argument("--kenlm-build", type=Path, help="the build of them, with bin/ and lib/")
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/ngram.md")
    arguments = parser.parse_args()
    with open(arguments.text, encoding="utf-8") as file:
        lines = [line.strip() for line, _ in zip(file, range(arguments.sentences), strict=False)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builder = arguments.kenlm_build and arguments.kenlm_build / "bin/build_binary"
        paths = make_binaries(arguments.arpa, folder, builder)
        worst = check(arguments.arpa, paths, lines)
        native, _ = native_rows(arguments, paths, folder)
        python = python_rows(arguments.arpa, paths, lines, arguments.rounds)
    counts = LanguageModel.load(arguments.arpa).counts
    report = [
        "# N-gram language models: size, load, query",
        "",
        f"Model: n-grams by order {counts}, "
        f"ARPA file of {arguments.arpa.stat().st_size / 1e6:.1f} MB.",
        f"Machine: {machine()}. Medians, with the least and the most of {arguments.rounds} rounds.",
        f"Load average of the machine while measuring: {os.getloadavg()[0]:.1f}.",
        f"Largest difference of a word's log10 from kenlm's: {worst:.1e} ({len(lines)} sentences,",
        "order and unknown-word flags equal).",
        "",
        "One query from C++, random order, nanoseconds "
        f"({arguments.queries} places of the text, models taking turns, 9 rounds):",
        "",
        "| model | ns a query |",
        "|---|---|",
        *native,
        "",
        "From Python (`load`; `score(sentence)` a word, splitting and look-up of words included):",
        "",
        "| model | MB | load | a word |",
        "|---|---|---|---|",
        *python,
        "",
        "Command:",
        "",
        "    python benchmarks/ngram.py model.arpa text.txt --kenlm-source kenlm "
        "--kenlm-build kenlm/build",
        "",
        "with the 4-gram of `ctcspeech lm build --order 4 --prune 0 0 1 1` (or KenLM's `lmplz`).",
        "",
    ]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n".join(report))
    sys.stdout.write("\n".join(report))


if __name__ == "__main__":
    main()
