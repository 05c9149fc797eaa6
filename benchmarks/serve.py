"""python benchmarks/serve.py MODEL MANIFEST [--streams 64] [--seconds 300] [--lm lm.bin]

`ctcspeech serve` under load: N clients, each its own WebSocket, send real recordings at the pace of
speech, 20 ms a message, with pauses after them, and check every final text against that of
`StreamingRecognizer` alone on the same samples. Server and clients share the machine.

What is told: final texts that differ; time from the end of speech (by its energy) to the final
result, beyond the configured silence (median, 99th percentile); age of the audio that a partial
result has heard when it comes; processor time of the server for a second of a stream's audio; its
resident memory over time. With --connections K, K connections are tried at once beside the streams.
Results go to benchmarks/results/serve.md (--write).
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import websockets

from ctcspeech.audio.read import load
from ctcspeech.data.manifest import read_manifest

RESULTS = Path(__file__).parent / "results" / "serve.md"
CHUNK = 0.02
SILENCE = 0.5  # of the endpoint rule
PAUSE = 1.6  # of silence after each recording: the rule, and time for what was late


@dataclass
class Script:
    """What one client says: its samples, where each recording ends, and the texts expected."""

    samples: np.ndarray
    starts: list[float]  # of the recordings, seconds
    ends: list[float]  # of the speech in each recording, seconds
    texts: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """What one client was told."""

    texts: list[str] = field(default_factory=list)
    finals: dict[int, float] = field(default_factory=dict)  # by recording, its last one
    partials: list[float] = field(default_factory=list)
    failure: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--connections", type=int, default=0, help="refused ones, tried beside")
    parser.add_argument("--scripts", type=int, default=8, help="different texts among the clients")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    scripts = make_scripts(arguments)
    with Served(arguments) as server:
        seen = asyncio.run(run(server, scripts, arguments))
        server.finish()
    lines = report(seen, scripts, server, arguments)
    print("\n".join(lines))
    if arguments.write:
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


def make_scripts(arguments: argparse.Namespace) -> list[Script]:
    """Recordings joined with pauses, as long as the run; and their texts by one stream alone."""
    from ctcspeech.live.endpoint import Endpointing
    from ctcspeech.live.recognizer import StreamingRecognizer
    from ctcspeech.recognize.recognizer import Recognizer

    recognizer = Recognizer.load(arguments.model, threads=1)
    decoder = None
    if arguments.lm:
        from ctcspeech.decode.settings import DecoderSettings

        settings = DecoderSettings(lm=arguments.lm)
        decoder = settings.decoder(recognizer.alphabet, recognizer.frame_shift_ms)
    rules = Endpointing(2.4, SILENCE)
    live = StreamingRecognizer.of(recognizer, decoder=decoder, endpointing=rules)
    rate, random = live.sample_rate, np.random.default_rng(0)
    paths = [utterance.path for utterance in read_manifest(arguments.manifest)]
    scripts = []
    for _ in range(min(arguments.scripts, arguments.streams)):
        parts, starts, ends, length = [], [], [], 0
        while length < arguments.seconds * rate:
            samples = load(paths[int(random.integers(len(paths)))], rate)[0]
            pause = 1e-4 * random.standard_normal(int(PAUSE * rate))
            parts += [samples, pause]
            starts.append(length / rate)
            ends.append(length / rate + speech_end(samples, rate))
            length += len(samples) + len(pause)
        whole = (np.clip(np.concatenate(parts), -1, 1) * 32767).astype("<i2")
        stream = live.stream()
        results = [*stream.accept(whole), *stream.finish()]
        scripts.append(Script(whole, starts, ends, [r.text for r in results if r.final]))
    arguments.rate = rate
    arguments.lookahead = live.lookahead_seconds
    arguments.state = live.stream().num_bytes
    return scripts


def speech_end(samples: np.ndarray, rate: int) -> float:
    """Seconds to the end of the last 30 ms that are within 30 dB of the loudest."""
    size = int(0.03 * rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-12)
    return float((np.flatnonzero(level > level.max() - 30)[-1] + 1) * size / rate)


class Served:
    """The command, as users start it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        command = [
            sys.executable, "-m", "ctcspeech", "serve", f"model={arguments.model}", "--port", "0",
            "--silence", str(SILENCE), "--no-access-log",
            "--max-connections", str(max(arguments.streams + 2, 4)),
        ]  # fmt: skip
        if arguments.lm:
            command += ["--lm", str(arguments.lm)]
        self.log = tempfile.NamedTemporaryFile("r", suffix=".log")
        with open(self.log.name, "w") as told:
            self.process = subprocess.Popen(command, stderr=told)
        while not (line := self.log.readline()):
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.1)
        assert " at http" in line, line + self.log.read()
        self.address = line.split(" at http")[1].strip()
        self.used = psutil.Process(self.process.pid)
        self.memory: list[tuple[float, float]] = []
        self.cpu = 0.0

    def __enter__(self) -> "Served":
        time.sleep(0.5)
        self.before = sum(self.used.cpu_times()[:2])
        return self

    def finish(self) -> None:
        self.cpu = sum(self.used.cpu_times()[:2]) - self.before

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        if told := self.log.read().strip():
            print(f"the server told:\n{told[:2000]}", file=sys.stderr)

    def look(self) -> None:
        self.memory.append((time.monotonic(), self.used.memory_info().rss / 2**20))


async def run(server: Served, scripts: list[Script], arguments: argparse.Namespace) -> list[Seen]:
    seen = [Seen() for _ in range(arguments.streams)]
    tasks = [
        asyncio.create_task(client(server, scripts[i % len(scripts)], arguments, i, seen[i]))
        for i in range(arguments.streams)
    ]
    if arguments.connections:
        tasks.append(asyncio.create_task(crowd(server, arguments)))
    waiting = asyncio.gather(*tasks)
    while not waiting.done():
        server.look()
        await asyncio.wait({waiting}, timeout=2.0)
    await waiting
    return seen


async def client(
    server: Served, script: Script, arguments: argparse.Namespace, number: int, seen: Seen
) -> None:
    """One paced stream. It begins a little after the one before, as people do."""
    await asyncio.sleep(number * 1.37 % 4.0)
    address = f"ws{server.address}v1/stream"
    try:
        async with websockets.connect(address, compression=None, ping_interval=None) as socket:
            start = {"type": "start", "sample_rate": arguments.rate, "words": False}
            await socket.send(json.dumps(start))
            assert json.loads(await socket.recv())["type"] == "ready"
            began = time.monotonic()
            reader = asyncio.create_task(read(socket, script, began, seen))
            size = int(CHUNK * arguments.rate)
            for i in range(0, len(script.samples), size):
                due = began + (i + size) / arguments.rate
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                await socket.send(script.samples[i : i + size].tobytes())
            await socket.send('{"type": "end"}')
            await asyncio.wait_for(reader, 60)
    except Exception as error:
        seen.failure = f"{type(error).__name__}: {error}"


async def read(socket: object, script: Script, began: float, seen: Seen) -> None:
    async for text in socket:
        message, now = json.loads(text), time.monotonic() - began
        if message["type"] == "partial":
            seen.partials.append(now - message["heard"])
        elif message["type"] == "final":
            seen.texts.append(message["text"])
            # A pause within a recording ends an utterance, too: the last one is that of its end.
            spoken = message["end"] - SILENCE
            number = sum(start <= spoken for start in script.starts) - 1
            if message["reason"] == "silence" and number >= 0:
                seen.finals[number] = now - script.ends[number] - SILENCE
        elif message["type"] == "error":
            seen.failure = message["message"]


async def crowd(server: Served, arguments: argparse.Namespace) -> None:
    """Connections beyond the limit, a hundred at a time; each must be refused."""
    arguments.refused = arguments.accepted = 0

    async def one() -> None:
        try:
            async with websockets.connect(f"ws{server.address}v1/stream", open_timeout=60):
                arguments.accepted += 1
        except websockets.InvalidStatus as error:
            arguments.refused += error.response.status_code == 503

    await asyncio.sleep(6.0)
    for _ in range(0, arguments.connections, 100):
        await asyncio.gather(*(one() for _ in range(100)))


def report(
    seen: list[Seen], scripts: list[Script], server: Served, arguments: argparse.Namespace
) -> list[str]:
    finals = np.array([value for item in seen for value in item.finals.values()])
    partials = np.array([value for item in seen for value in item.partials])
    expected = [scripts[i % len(scripts)].texts for i in range(len(seen))]
    wrong = sum(item.texts != texts for item, texts in zip(seen, expected, strict=True))
    failures = [item.failure for item in seen if item.failure]
    audio = sum(len(scripts[i % len(scripts)].samples) for i in range(len(seen))) / arguments.rate
    minutes = np.array([(when - server.memory[0][0]) / 60 for when, _ in server.memory])
    memory = np.array([size for _, size in server.memory])
    later = minutes > minutes[-1] / 3
    slope = np.polyfit(minutes[later], memory[later], 1)[0] if later.sum() > 3 else float("nan")

    def ms(values: np.ndarray, *shares: float) -> str:
        if not len(values):
            return "none"
        return ", ".join(f"{1000 * np.percentile(values, share):.0f}" for share in shares)

    command = " ".join(["python benchmarks/serve.py", *sys.argv[1:]]).replace(" --write", "")
    lines = [
        f"    {command}",
        "",
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, load average "
        f"{os.getloadavg()[0]:.1f} at the end; {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        "| | |",
        "|---|---|",
        f"| streams, minutes of audio | {len(seen)}, {audio / 60:.1f} |",
        f"| streams lost | {len(failures)} |",
        f"| streams with a text that differs | {wrong} of {len(seen)} "
        f"({sum(map(len, expected))} finals) |",
        f"| final after the silence, ms: median, 90 %, 99 % | {ms(finals, 50, 90, 99)} |",
        f"| age of audio in a partial, ms: median, 99 % | {ms(partials, 50, 99)} |",
        f"| the model's lookahead, ms | {1000 * arguments.lookahead:.0f} |",
        f"| server's processor time a second of audio | {server.cpu / audio:.4f} |",
        f"| resident memory, MiB: first, last, slope a minute | {memory[0]:.0f}, {memory[-1]:.0f}, "
        f"{slope:.2f} |",
        f"| memory of a stream at its beginning, KiB | {arguments.state / 1024:.0f} |",
    ]
    if arguments.connections:
        lines.append(
            f"| refused with 503, of {arguments.connections} tried beside | {arguments.refused} |"
        )
    if failures:
        lines += ["", f"First failure: {failures[0]}"]
    return lines


if __name__ == "__main__":
    main()
