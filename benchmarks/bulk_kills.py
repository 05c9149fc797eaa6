"""python benchmarks/bulk_kills.py --model runs/digits --data DIR/fsdd [--kills 20]

`ctcspeech bulk` under kill -9: the command is started, something of it is killed at a random time,
and where the command has died it is started again with another number of shards, until it is done.
The output, sorted, must be byte for byte that of a run that was not killed.

Half of the kills meet `--engine local` (the driver, or one of its two workers), half of them
`--engine ray` on a cluster of two nodes on this machine (ray.cluster_utils): the driver, an actor,
or the whole second node, which is then added again. The work is the recordings of --data, each
under several ids. Results go to benchmarks/results/bulk_kills.md.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from machine import describe, write_page

RESULTS = Path(__file__).parent / "results" / "bulk_kills.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", required=True, help="a run or checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.jsonl")
    parser.add_argument("--kills", type=int, default=20, help="of all engines in sum")
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--times", type=int, default=6, help="each recording, under as many ids")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        manifest = place / "many.jsonl"
        count = write_manifest(manifest, arguments.data, arguments.times)
        command = [sys.executable, "-m", "ctcspeech", "bulk", arguments.model, str(manifest)]
        command.append("--allow-failures")
        whole = [*command, "-o", str(place / "whole"), "--workers", "2"]
        subprocess.run(whole, check=True, capture_output=True)
        expected = output(place / "whole")
        rows = []
        for engine in arguments.engines:
            trial = Trial(engine, command, place / engine, random.Random(arguments.seed))
            trial.run(arguments.kills // len(arguments.engines))
            found = output(place / engine)
            assert found == expected, f"{engine}: the output differs"
            print(f"{engine}: {dict(trial.kills)}, {trial.starts} starts, equal", flush=True)
            rows.append((engine, trial))
    write(rows, count, expected, arguments)


def write_manifest(manifest: Path, data: Path, times: int) -> int:
    lines = (data / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # Two that cannot be read: failures must come out alike, too.
    rows.append({"audio_filepath": "missing.wav", "duration": 1.0})
    with open(manifest, "w") as file:
        for time_ in range(times):
            for number, row in enumerate(rows):
                path = str((data / row["audio_filepath"]).absolute())
                line = {"audio_filepath": path, "duration": row["duration"]}
                file.write(json.dumps({**line, "id": f"{number}-{time_}"}) + "\n")
    return times * len(rows)


def output(folder: Path) -> tuple[int, str, str]:
    """Lines of the results, the digest of the sorted ones, that of the sorted failures."""
    (run,) = folder.glob("run-*")
    lines: list[bytes] = []
    for file in (run / "results").glob("*.jsonl"):
        lines += file.read_bytes().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert sum(map(bool, texts)) > len(texts) / 2, "most texts are empty: nothing is compared"
    failed = (run / "failed.jsonl").read_bytes().splitlines()
    assert failed
    return len(lines), digest(lines), digest(failed)


def digest(lines: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()


class Trial:
    """One engine: kills until there were enough, then to the end."""

    def __init__(
        self, engine: str, command: list[str], folder: Path, generator: random.Random
    ) -> None:
        self.engine, self.folder, self.random = engine, folder, generator
        self.command = [*command, "-o", str(folder), "--workers", "2", "--engine", engine]
        self.kills: Counter[str] = Counter()
        self.starts = 0
        self.states: list[str] = []
        self.process: subprocess.Popen | None = None
        self.cluster = self.node = None

    def run(self, kills: int) -> None:
        if self.engine == "ray":
            self.start_cluster()
        try:
            while sum(self.kills.values()) < kills:
                if not self.running():
                    self.start()
                self.wait_until_at_work()
                time.sleep(self.random.uniform(0.0, 4.0))
                if self.running():
                    self.kill()
            while True:
                if not self.running():
                    self.start()
                assert self.process is not None
                code = self.process.wait()
                if code == 0 and list(self.folder.glob("run-*/report.json")):
                    return
        finally:
            if self.running():
                os.killpg(self.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
            if self.cluster is not None:
                self.cluster.shutdown()

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        assert not list(self.folder.glob("run-*/report.json")), (
            "the work was done before all kills: give more --times"
        )
        self.starts += 1
        command = [*self.command, "--shards", str(self.random.choice([32, 24, 17]))]
        log = open(self.folder.parent / f"{self.engine}-{self.starts}.log", "w")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def done(self) -> int:
        return len(list(self.folder.glob("run-*/done/*.json")))

    def wait_until_at_work(self) -> None:
        """Until something more has been done, or the command has ended."""
        before = self.done()
        while self.running() and self.done() == before:
            time.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        choices = ["driver", "worker"] if self.engine == "local" else ["driver", "actor", "node"]
        kind = self.random.choice(choices)
        if kind == "driver":
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        elif kind == "node":
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = self.cluster.add_node(**NODE)
        else:
            workers = self.workers()
            if not workers:
                return
            with_luck = self.random.choice(workers)
            with_luck.kill()
        self.kills[kind] += 1
        print(f"{self.engine}: {kind} killed, {self.done()} parts done", flush=True)

    def workers(self) -> list[psutil.Process]:
        if self.engine == "local":
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in children if "spawn_main" in " ".join(p.cmdline())]
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if "ray::MapWorker" in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return found

    def start_cluster(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=NODE)
        self.node = self.cluster.add_node(**NODE)
        self.cluster.wait_for_nodes()
        self.command += ["--ray-address", self.cluster.address]


# On a machine with much other work a process of Ray may take minutes to start.
os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
os.environ.setdefault("RAY_worker_niceness", "0")  # of Ray: 15
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


def write(
    rows: list[tuple[str, Trial]],
    count: int,
    expected: tuple[int, str, str],
    arguments: argparse.Namespace,
) -> None:
    import ray

    text = [
        "# ctcspeech bulk: kills",
        "",
        f"`python benchmarks/bulk_kills.py {' '.join(sys.argv[1:])}".rstrip() + "`",
        "",
        f"{describe()}; Python {platform.python_version()}, ray {ray.__version__}.",
        "",
        f"{count} lines of a manifest, {expected[0]} recordings that can be read; 2 workers. Each "
        "start has another number of shards (32, 24 or 17). Times of the kills are random, once "
        "work has begun.",
        "",
        "| engine | kills | of these | starts of the command | output |",
        "|---|---|---|---|---|",
    ]
    for engine, trial in rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(trial.kills.items()))
        text.append(
            f"| {engine} | {sum(trial.kills.values())} | {kinds} | {trial.starts} | equal |"
        )
    text += [
        "",
        "Equal: the sorted results and the sorted failures are byte for byte those of a run that "
        f"was not killed (SHA-256 of the results {expected[1][:16]}...).",
    ]
    write_page(RESULTS, text)


if __name__ == "__main__":
    main()
