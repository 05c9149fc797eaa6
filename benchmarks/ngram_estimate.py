"""Estimating n-gram models: `ctcspeech lm build` against KenLM's `lmplz`, and on large texts.

    python benchmarks/ngram_estimate.py general.train.txt --lmplz kenlm/build/bin/lmplz \\
        --gigabytes 1 --memory 2G --temp-dir /data/tmp

First both estimate the 4-gram of the given text, in turn, each round a pair; the two ARPA files are
compared n-gram by n-gram before a time is reported. Then a large text is drawn from the given one
and estimated within a limit of memory; time, largest resident set and temporary disk are measured
(the sizes of the files that the process holds open without a name, asked for all the while).

The large text is a walk over the bigrams of the given text, with one word in ten drawn by itself
and one in five hundred made up, so that new n-grams and new words keep coming: more of them than in
natural text of that size. It is deleted afterwards.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

ROOT = Path(__file__).parent.parent
OPTIONS = {"order": 4, "prune": "0 0 1 1"}
WALKS = 1 << 16  # sentences drawn at once
ALONE, INVENTED = 0.1, 0.002  # of the words: drawn by themselves, made up


def draw_text(source, target, size, seed=0):
    """Writes about `size` bytes of text like `source` and returns its words and sentences."""
    rng = np.random.default_rng(seed)
    vocabulary = {"\n": 0}
    tokens = [0]
    with open(source, encoding="utf-8") as file:
        for line in file:
            tokens.extend(vocabulary.setdefault(word, len(vocabulary)) for word in line.split())
            tokens.append(0)
    tokens = np.array(tokens)
    names = np.array(list(vocabulary), dtype=object)
    order = np.argsort(tokens[:-1], kind="stable")
    followers = tokens[1:][order]  # of word 0, of word 1, ...
    counts = np.bincount(tokens[:-1], minlength=len(names))
    starts = np.cumsum(counts) - counts
    real = tokens[tokens > 0]
    written = words = sentences = 0
    with open(target, "w", encoding="utf-8") as file:
        at = np.zeros(WALKS, dtype=np.int64)
        while written < size:
            steps = []
            for _ in range(64):
                follower = starts[at] + (rng.random(WALKS) * counts[at]).astype(np.int64)
                alone = rng.random(WALKS) < ALONE
                at = np.where(alone, real[rng.integers(len(real), size=WALKS)], followers[follower])
                steps.append(at)
            block = np.stack(steps, axis=1).ravel()  # 64 words of a walk, then of the next
            text = names[block]
            invented = np.flatnonzero((rng.random(len(block)) < INVENTED) & (block > 0))
            # As the vocabulary of a text grows, each new word is met again and again.
            numbers = (rng.random(len(invented)) ** 3 * (words + len(block)) / 100).astype(np.int64)
            text[invented] = [f"new{number}" for number in numbers]
            joined = " ".join(text).replace(" \n ", "\n") + "\n"
            file.write(joined)
            written += len(joined.encode())
            words += int((block > 0).sum())
            sentences += int((block == 0).sum()) + 1
    return words, sentences


def nameless_bytes(pid):
    """Disk held by files that the process has open and no folder names."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).endswith(" (deleted)"):
                    total += os.stat(entry.path).st_blocks * 512
    return total


def largest_resident(pid):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def run(command, stdin=None):
    """Seconds by the wall and of the processor, and the most memory and temporary disk it took."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=stdin, stdout=subprocess.DEVNULL, stderr=errors,
            cwd=ROOT,
        )  # fmt: skip
        memory = disk = 0
        while True:
            memory = max(memory, largest_resident(process.pid))
            disk = max(disk, nameless_bytes(process.pid))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.2 if time.perf_counter() - start > 20 else 0.02)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        log = errors.read()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {log[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "cpu": cpu, "memory": memory, "disk": disk, "log": log}


def ours(text, output, memory, temp):
    return [
        sys.executable, "-m", "ctcspeech", "lm", "build", "--order", OPTIONS["order"], "--prune",
        *OPTIONS["prune"].split(), "--memory", memory, "--temp-dir", temp, text, "-o", output,
    ]  # fmt: skip


def lmplz(program, text, output, memory, temp):
    return [
        program, "-o", OPTIONS["order"], "--prune", *OPTIONS["prune"].split(), "-S", memory, "-T",
        temp, "--text", text, "--arpa", output,
    ]  # fmt: skip


def read_arpa(path):
    """{n-gram: (log10 probability, log10 back-off)}"""
    grams = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) > 1:
                grams[fields[1]] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return grams


def compare(first, second):
    """The largest difference between two ARPA files, which must hold the same n-grams."""
    a, b = read_arpa(first), read_arpa(second)
    if a.keys() != b.keys():
        raise SystemExit(f"{len(a.keys() ^ b.keys())} n-grams are only in one of the models")
    worst = max(abs(x - y) for gram in a for x, y in zip(a[gram], b[gram], strict=True))
    if worst > 1e-5:
        raise SystemExit(f"the models differ by {worst}")
    return len(a), worst


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def against_lmplz(arguments, folder):
    """Both on the given text, in turn."""
    commands = {
        "ctcspeech lm build": ours(arguments.text, folder / "ours.arpa", "2G", folder),
        "lmplz": lmplz(arguments.lmplz, arguments.text, folder / "theirs.arpa", "2G", folder),
    }
    for command in commands.values():  # the text into the cache, and the files to compare
        run(command)
    ngrams, worst = compare(folder / "ours.arpa", folder / "theirs.arpa")
    rounds = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            rounds[name].append(run(command))
    lines = [
        f"Text of {arguments.text.stat().st_size / 1e6:.1f} MB, order {OPTIONS['order']}, "
        f"--prune {OPTIONS['prune']}: {ngrams:,} n-grams, the same in both; largest difference of "
        f"a logarithm {worst:.1e}.",
        "",
        "| | processor s | wall s | MB resident |",
        "|---|---|---|---|",
    ]
    for name, results in rounds.items():
        resident = max(r["memory"] for r in results) / 1e6
        lines.append(
            f"| {name} | {spread([r['cpu'] for r in results])} "
            f"| {spread([r['wall'] for r in results])} | {resident:.0f} |"
        )
    pairs = zip(*rounds.values(), strict=True)
    ratios = [a["cpu"] / b["cpu"] for a, b in pairs]
    lines += ["", f"Processor time, ours to lmplz's in each round: {spread(ratios)}.", ""]
    return lines


def large(arguments, folder):
    size = int(arguments.gigabytes * 1e9)
    text = folder / "large.txt"
    words, sentences = draw_text(arguments.text, text, size)
    limit = arguments.memory
    lines = [
        f"Drawn text of {text.stat().st_size / 1e9:.2f} GB, {words:,} words, {sentences:,} "
        f"sentences; order {OPTIONS['order']}, --prune {OPTIONS['prune']}, --memory {limit}:",
        "",
        "| | wall s | processor s | MB resident | GB of temporary disk | bytes of disk a token |",
        "|---|---|---|---|---|---|",
    ]
    jobs = {"ctcspeech lm build": ours(text, folder / "large.arpa", limit, folder)}
    if arguments.lmplz and arguments.large_lmplz:
        jobs["lmplz"] = lmplz(arguments.lmplz, text, folder / "large-lmplz.arpa", limit, folder)
    tokens = words + sentences
    for name, command in jobs.items():
        result = run(command)
        output = Path(command[-1])
        lines.append(
            f"| {name} | {result['wall']:.0f} | {result['cpu']:.0f} | {result['memory'] / 1e6:.0f} "
            f"| {result['disk'] / 1e9:.2f} | {result['disk'] / tokens:.0f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
        print(result["log"][-3000:], file=sys.stderr, flush=True)
        with open(output, encoding="utf-8") as file:
            header = [next(file).strip() for _ in range(OPTIONS["order"] + 1)]
        jobs[name] = f"{name}: {', '.join(header[1:])}; {output.stat().st_size / 1e9:.2f} GB."
        output.unlink()
    text.unlink()
    return [*lines, "", *jobs.values(), ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--lmplz", type=Path, help="KenLM's program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of drawn text; 0: none")
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--large-lmplz", action="store_true", help="lmplz on the large text, too")
    parser.add_argument("--temp-dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, help="a Markdown file to append to")
    arguments = parser.parse_args()
    arguments.text = arguments.text.absolute()
    report = []
    with tempfile.TemporaryDirectory(dir=arguments.temp_dir) as name:
        if arguments.lmplz and arguments.rounds:
            report += against_lmplz(arguments, Path(name))
        if arguments.gigabytes:
            report += large(arguments, Path(name))
    text = "\n".join([f"Machine: {describe()}.", "", *report])
    print(text)
    if arguments.output:
        with open(arguments.output, "a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
