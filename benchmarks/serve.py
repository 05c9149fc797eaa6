"""python benchmarks/serve.py MODEL MANIFEST [--streams 64] [--seconds 300] [--lm lm.bin]

`ctcspeech serve` under load: N clients, each its own WebSocket, send real recordings at the pace of
speech, 20 ms a message, with pauses after them, and check every final text against that of
`StreamingRecognizer` alone on the same samples. Server and clients share the machine. With --visits
the clients come and go: each opens one session after another, of 1 to 6 recordings, and one in ten
leaves in the middle of a word.

What is told:

- final texts that differ, and streams lost;
- the time from the end of speech to the final, beyond the configured silence: when the final
  arrived at the client, less when the last sample of speech was due to be sent, less the silence of
  the endpoint rule. Speech ends with the last 10 ms of the recording that are within 30 dB of its
  loudest 10 ms. Recordings count whose finals, joined, are what was said, and that ended by
  silence: in others the last final need not be that of the last word. It holds the model's
  lookahead, the delay at which the model writes labels, and the server's computation; what it is
  beyond the lookahead from the last frame that decided is told, too;
- the age of a partial: when it arrived, less the end of the audio that it has heard;
- processor time of the server for a second of audio, its resident memory over time.

With --connections K, K connections are tried beside the streams. Results go to
benchmarks/results/serve.md (--write appends).
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import websockets
from live import speech_end
from machine import describe

from ctcspeech.audio.read import load
from ctcspeech.data.manifest import Utterance, read_manifest
from ctcspeech.live.endpoint import Endpointing
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.text.error_rates import word_errors

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
    said: list[str]  # in each recording
    texts: list[str]  # of the finals


@dataclass
class Seen:
    """What the clients of one place were told."""

    finals: list[float] = field(default_factory=list)  # seconds, of recordings that were heard out
    computed: list[float] = field(default_factory=list)  # of each final, from its last sample on
    partials: list[float] = field(default_factory=list)
    when: list[float] = field(default_factory=list)  # each of these came, on the clock
    sessions: int = 0
    broken: int = 0  # sessions that were left in the middle of a word, as planned
    expected: int = 0  # finals
    wrong: int = 0  # sessions with a text that differs
    audio: float = 0.0
    failures: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--visits", action="store_true", help="clients come and go")
    parser.add_argument("--connections", type=int, default=0, help="refused ones, tried beside")
    parser.add_argument("--scripts", type=int, default=8, help="different texts among the clients")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    scripts = make_scripts(arguments)
    with Served(arguments) as server:
        seen = asyncio.run(run(server, scripts, arguments))
        server.finish()
    lines = report(seen, server, arguments)
    print("\n".join(lines))
    if arguments.write:
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


def make_scripts(arguments: argparse.Namespace) -> list[Script]:
    """Recordings joined with pauses, and their texts by one stream alone."""
    recognizer = Recognizer.load(arguments.model, threads=1)
    decoder = None
    if arguments.lm:
        from ctcspeech.decode.settings import DecoderSettings

        settings = DecoderSettings(lm=arguments.lm)
        decoder = settings.decoder(recognizer.alphabet, recognizer.frame_shift_ms)
    live = StreamingRecognizer.of(
        recognizer, decoder=decoder, endpointing=Endpointing(2.4, SILENCE)
    )
    random, utterances = np.random.default_rng(0), read_manifest(arguments.manifest)
    arguments.rate, arguments.lookahead = live.sample_rate, live.lookahead_seconds
    arguments.state = live.stream().num_bytes
    scripts = []
    for _ in range(arguments.scripts):
        count = int(random.integers(1, 7)) if arguments.visits else 0
        scripts.append(make_script(live, utterances, count, arguments.seconds, random))
    counts = [word_errors(" ".join(script.said), " ".join(script.texts)) for script in scripts]
    total = sum(count.reference_length for count in counts)
    arguments.wer = sum(count.errors for count in counts) / total
    return scripts


def make_script(
    live: StreamingRecognizer, utterances: list[Utterance], count: int,
    seconds: float, random: np.random.Generator,
) -> Script:  # fmt: skip
    """So many recordings, or, where count is 0, so many seconds of them."""
    rate, length = live.sample_rate, 0
    parts: list[np.ndarray] = []
    starts: list[float] = []
    ends: list[float] = []
    said: list[str] = []
    while len(starts) < count or not count and length < seconds * rate:
        utterance = utterances[int(random.integers(len(utterances)))]
        samples = load(utterance.path, rate)[0]
        pause = 1e-4 * random.standard_normal(int(PAUSE * rate))
        parts += [samples, pause]
        said.append(utterance.text)
        starts.append(length / rate)
        ends.append(length / rate + speech_end(samples, rate))
        length += len(samples) + len(pause)
    whole = (np.clip(np.concatenate(parts), -1, 1) * 32767).astype("<i2")
    stream = live.stream()
    results = [*stream.accept(whole), *stream.finish()]
    texts = [result.text for result in results if result.final]
    return Script(whole, starts, ends, said, texts)


class Served:
    """The command, as users start it."""

    def __init__(self, arguments: argparse.Namespace, more: int = 2, keys: str = "") -> None:
        command = [
            sys.executable, "-m", "ctcspeech", "serve", f"model={arguments.model}", "--port", "0",
            "--silence", str(SILENCE), "--no-access-log",
            "--max-connections", str(arguments.streams + more),
        ]  # fmt: skip
        if arguments.lm:
            command += ["--lm", str(arguments.lm)]
        self.log = tempfile.NamedTemporaryFile("r", suffix=".log")
        with open(self.log.name, "w") as told:
            environment = {**os.environ, "CTCSPEECH_KEYS": keys}
            self.process = subprocess.Popen(command, stderr=told, env=environment)
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
    place = visits if arguments.visits else one_session
    tasks = [
        asyncio.create_task(place(server, scripts, arguments, i, seen[i]))
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


async def one_session(
    server: Served, scripts: list[Script], arguments: argparse.Namespace, number: int, seen: Seen
) -> None:
    """One paced stream. It begins a little after the one before, as people do."""
    await asyncio.sleep(number * 1.37 % 4.0)
    await session(server, scripts[number % len(scripts)], arguments.rate, seen)


async def visits(
    server: Served, scripts: list[Script], arguments: argparse.Namespace, number: int, seen: Seen
) -> None:
    """One session after another, with a few seconds between them, until the time is over."""
    random, until = np.random.default_rng(number), time.monotonic() + arguments.seconds
    while time.monotonic() < until:
        await asyncio.sleep(float(random.uniform(0, 4)))
        script = scripts[int(random.integers(len(scripts)))]
        leave = float(random.uniform(0.2, 0.9)) if random.random() < 0.1 else 1.0
        await session(server, script, arguments.rate, seen, leave)


async def session(
    server: Served, script: Script, rate: int, seen: Seen, leave: float = 1.0, key: str = "none",
    over: asyncio.Event | None = None,
) -> None:  # fmt: skip
    """One stream from its beginning to its end, to a share `leave` of it, or until it is over."""
    address, size = f"ws{server.address}v1/stream", int(CHUNK * rate)
    heard: list[tuple[float, dict]] = []
    began = time.monotonic()
    seen.sessions += 1
    try:
        headers = {"Authorization": f"Bearer {key}"}
        async with websockets.connect(
            address, compression=None, ping_interval=None, additional_headers=headers
        ) as socket:
            await socket.send(json.dumps({"type": "start", "sample_rate": rate, "words": False}))
            assert json.loads(await socket.recv())["type"] == "ready"
            began = time.monotonic()
            reader = asyncio.create_task(read(socket, began, heard))
            for i in range(0, int(leave * len(script.samples)), size):
                wait = began + (i + size) / rate - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                await socket.send(script.samples[i : i + size].tobytes())
                if over is not None and over.is_set():
                    break
            if leave < 1:
                socket.transport.abort()
                reader.cancel()
            else:
                await socket.send('{"type": "end"}')
                await asyncio.wait_for(reader, 60)
                assert heard[-1][1]["type"] == "done", heard[-1][1]
    except Exception as error:
        if leave == 1:
            seen.failures.append(f"{type(error).__name__}: {error}")
    seen.audio += leave * len(script.samples) / rate
    partials = [(now, message["heard"]) for now, message in heard if message["type"] == "partial"]
    seen.partials += [now - sound for now, sound in partials]
    seen.when += [began + now for now, _ in partials]
    if leave < 1:
        seen.broken += 1
        return
    finals = [(now, message) for now, message in heard if message["type"] == "final"]
    texts, expected = [message["text"] for _, message in finals], script.texts
    if over is not None:  # the last one was cut short
        texts, expected = texts[:-1], expected[: len(texts) - 1]
    seen.expected += len(expected)
    seen.wrong += texts != expected
    seen.finals += after_speech(script, finals)
    seen.computed += [now - m["heard"] for now, m in finals if m["reason"] == "silence"]


def after_speech(script: Script, finals: list[tuple[float, dict]]) -> list[float]:
    """Seconds from the end of speech and of the silence after it to the final, by recording."""
    heard: dict[int, list[tuple[float, dict]]] = {}  # a pause within one ends an utterance, too
    for now, message in finals:
        spoken = message["end"] - SILENCE
        number = sum(start <= spoken for start in script.starts) - 1
        heard.setdefault(max(number, 0), []).append((now, message))
    return [
        items[-1][0] - script.ends[number] - SILENCE
        for number, items in heard.items()
        if " ".join(message["text"] for _, message in items) == script.said[number]
        and items[-1][1]["reason"] == "silence"
    ]


async def read(socket: object, began: float, heard: list[tuple[float, dict]]) -> None:
    async for text in socket:
        heard.append((time.monotonic() - began, json.loads(text)))


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


def report(seen: list[Seen], server: Served, arguments: argparse.Namespace) -> list[str]:
    finals = np.array([value for item in seen for value in item.finals])
    computed = np.array([value for item in seen for value in item.computed])
    partials = np.array([value for item in seen for value in item.partials])
    failures = [failure for item in seen for failure in item.failures]
    sessions, broken, expected, wrong = (
        sum(getattr(item, name) for item in seen)
        for name in ("sessions", "broken", "expected", "wrong")
    )
    audio = sum(item.audio for item in seen)
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
        f"{describe()}, load average {os.getloadavg()[0]:.1f} at the end; "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        "| | |",
        "|---|---|",
        f"| streams at a time, minutes of audio | {len(seen)}, {audio / 60:.1f} |",
        f"| sessions, left in mid-word as planned, lost | {sessions}, {broken}, {len(failures)} |",
        f"| sessions with a text that differs | {wrong} of {sessions - broken} "
        f"({expected} finals) |",
        f"| final after end of speech and silence, ms: median, 90 %, 99 %; of recordings "
        f"| {ms(finals, 50, 90, 99)}; {len(finals)} |",
        f"| of that after the model's lookahead, ms: median, 90 %, 99 % "
        f"| {ms(computed - arguments.lookahead, 50, 90, 99)} |",
        f"| age of a partial, ms: median, 99 % | {ms(partials, 50, 99)} |",
        f"| the model's lookahead, at most, ms | {1000 * arguments.lookahead:.0f} |",
        f"| WER of the finals, joined | {100 * arguments.wer:.2f} % |",
        f"| server's processor time a second of audio | {server.cpu / audio:.4f} |",
        f"| resident memory, MiB: first, at a third, last | {memory[0]:.0f}, "
        f"{memory[later][0]:.0f}, {memory[-1]:.0f} |",
        f"| slope of the last two thirds, MiB an hour | {60 * slope:.1f} |",
        f"| memory of a stream at its beginning, KiB | {arguments.state / 1024:.0f} |",
    ]
    if arguments.visits:
        shares = np.linspace(0, len(memory) - 1, 13).astype(int)
        series = ", ".join(f"{memory[i]:.0f}" for i in shares)
        lines.append(f"| resident memory at each twelfth, MiB | {series} |")
    if arguments.connections:
        lines.append(
            f"| refused with 503, of {arguments.connections} tried beside | {arguments.refused} |"
        )
    if failures:
        lines += ["", f"First failure: {failures[0]}"]
    return lines


if __name__ == "__main__":
    main()
