"""python benchmarks/serve_rude.py MODEL MANIFEST [--streams 8] [--seconds 15]

What rude clients of `ctcspeech serve` cost the others. Paced streams of real recordings run all the
time; beside them comes one rude client after another, a process of its own, for so many seconds
each, and between them a while of quiet. Told of each: what it got, and the age of the others'
partial results (arrival less the audio that they have heard: median, 90 %, 99 %). The last ones are
a crowd: connections beyond the limit, all at once, and as many that are opened and say nothing.
Results go to benchmarks/results/serve.md by hand.
"""

import argparse
import asyncio
import contextlib
import gzip
import io
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import soundfile
import websockets
from serve import Script, Seen, Served, make_scripts, session

Rude = Callable[[str, Counter], Awaitable[None]]
Span = tuple[str, float, float, Counter]  # its name, when it came and went, what it got
QUIET = 6.0  # seconds between two rude clients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", nargs="*", choices=RUDES, default=list(RUDES))
    parser.add_argument("--rude-nice", type=int, default=0, help="lower priority of the rude ones")
    parser.add_argument("--be", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--lm", type=Path)
    arguments = parser.parse_args()
    arguments.visits, arguments.scripts = False, 4
    if arguments.be:
        rude, address, seconds = arguments.be
        print(json.dumps(asyncio.run(be(RUDES[rude], address, float(seconds)))))
        return
    seconds = arguments.seconds
    arguments.seconds = 600.0
    scripts = make_scripts(arguments)
    with Served(arguments, keys="secret", more=len(RUDES)) as server:
        asyncio.run(run(server, scripts, arguments, seconds))


async def be(rude: Rude, address: str, seconds: float) -> Counter:
    """A rude client, again and again for so many seconds; what it got."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    got: Counter = Counter()
    began = time.monotonic()
    while True:
        try:
            await asyncio.wait_for(rude(address, got), 120.0)
        except Exception as error:
            got[type(error).__name__] += 1
        if time.monotonic() - began >= seconds:
            return got


async def run(
    server: Served, scripts: list[Script], arguments: argparse.Namespace, seconds: float
) -> None:
    over = asyncio.Event()
    seen = [Seen() for _ in range(arguments.streams)]
    polite = [
        asyncio.create_task(
            session(
                server, scripts[i % len(scripts)], arguments.rate, item, key="secret", over=over
            )
        )
        for i, item in enumerate(seen)
    ]
    spans: list[Span] = []
    for name in arguments.only:
        await asyncio.sleep(QUIET)
        length = 0.0 if name.startswith("10,000") else seconds
        command = [sys.executable, __file__, "-", "-", "--be", name, server.address, str(length)]
        if arguments.rude_nice:  # what it costs the server, not what its own work costs the machine
            command = ["nice", "-n", str(arguments.rude_nice), *command]
        began = time.monotonic()
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        told, _ = await child.communicate()
        spans.append((name, began, time.monotonic(), Counter(json.loads(told))))
    await asyncio.sleep(QUIET)
    over.set()
    await asyncio.gather(*polite)
    ages = [pair for item in seen for pair in zip(item.when, item.partials, strict=True)]
    print(table(spans, np.array(ages), seen))


def table(spans: list[Span], ages: np.ndarray, seen: list[Seen]) -> str:
    loud = np.zeros(len(ages), bool)
    for _, began, ended, _ in spans:
        loud |= (ages[:, 0] > began) & (ages[:, 0] < ended + 1)
    lines = [
        "| rude client | what it got | others' partials, ms: median, 90 %, 99 % |",
        "|---|---|---|",
    ]
    lines.append(f"| none | | {percentiles(ages[~loud, 1])} |")
    for name, began, ended, got in spans:
        beside = ages[(ages[:, 0] > began) & (ages[:, 0] < ended + 1), 1]
        told = ", ".join(f"{what} ({count})" for what, count in got.most_common(4))
        lines.append(f"| {name} | {told} | {percentiles(beside)} |")
    failures = [failure for item in seen for failure in item.failures]
    sessions, wrong = (sum(getattr(item, name) for item in seen) for name in ("sessions", "wrong"))
    lines += ["", f"The others: {sessions} sessions, {wrong} with a text that differs, "]
    lines[-1] += f"{len(failures)} lost."
    return "\n".join(lines + failures[:1])


def percentiles(ages: np.ndarray) -> str:
    if not len(ages):
        return "none"
    return ", ".join(f"{1000 * np.percentile(ages, q):.0f}" for q in (50, 90, 99))


# -- rude clients ---------------------------------------------------------------------------------

KEY = {"Authorization": "Bearer secret"}


def stream(address: str, key: str = "secret", **options: object) -> websockets.connect:
    return websockets.connect(
        f"ws{address}v1/stream", compression=None, max_size=None,
        additional_headers={"Authorization": f"Bearer {key}"}, close_timeout=1, **options,
    )  # fmt: skip


async def code_of(socket: websockets.ClientConnection) -> str:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 20)
    return f"close {socket.close_code}"


async def garbage(address: str, got: Counter) -> None:
    for text in ("{", "\x00", "null", '{"type": ' + "[" * 50_000, "{}" * 1000):
        async with stream(address) as socket:
            await socket.send(text)
            got[await code_of(socket)] += 1


async def giant_frames(address: str, got: Counter) -> None:
    async with stream(address) as socket:
        await socket.send(b"\0" * (8 << 20))
        got[await code_of(socket)] += 1


async def never_reads(address: str, got: Counter) -> None:
    """It asks for answers and takes none, until the server has had enough."""
    place = urlsplit("http" + address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1024)
    writer.transport.get_extra_info("socket").setsockopt(1, 8, 4096)  # SO_RCVBUF
    reader._transport.pause_reading()
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        b"authorization: Bearer secret\r\n\r\n"
    )
    ask = b'{"type": "ping", "id": "' + b"x" * 90 + b'"}'
    begin = b'{"type": "start", "version": 1}'
    frames = [b"\x81" + bytes([0x80 | len(t)]) + bytes(4) + t for t in (begin, ask)]
    try:
        writer.write(frames[0])
        for _ in range(20_000):
            writer.write(frames[1] * 20)
            await writer.drain()
    except OSError:
        got["cut off"] += 1
    finally:
        writer.transport.abort()


async def slow_reader(address: str, got: Counter) -> None:
    async with stream(address, max_queue=1) as socket:
        await socket.send('{"type": "start"}')
        for _ in range(100):
            await socket.send(np.random.default_rng(0).bytes(3200))
        await socket.send('{"type": "end"}')
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await socket.recv()
                await asyncio.sleep(0.05)
        got[f"close {socket.close_code}"] += 1


async def ten_times_faster(address: str, got: Counter) -> None:
    noise = (1000 * np.random.default_rng(0).standard_normal(8000)).astype("<i2").tobytes()
    async with stream(address) as socket:
        await socket.send('{"type": "start"}')
        reader = asyncio.create_task(code_of(socket))
        for _ in range(30):
            await socket.send(noise)
            await asyncio.sleep(0.1 * len(noise) / 2 / 8000)
        await socket.send('{"type": "end"}')
        got[await reader] += 1


async def cuts(address: str, got: Counter) -> None:
    for _ in range(5):
        async with stream(address) as socket:
            await socket.send('{"type": "start"}')
            await socket.send(bytes(6400))
            socket.transport.abort()
            got["cut in mid-utterance"] += 1
    await asyncio.sleep(0.2)


async def wrong_key(address: str, got: Counter) -> None:
    for key in ("wrong", "", "x" * 4000):
        async with stream(address, key) as socket:
            got[await code_of(socket)] += 1
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http{address}v1/models", headers={"Authorization": "Bearer no"})
    got[f"HTTP {answer.status_code}"] += 1
    await asyncio.sleep(0.1)


async def paths(address: str, got: Counter) -> None:
    for name in ("../../../etc/passwd", "/etc/passwd", "model/../model", "hf:a/b"):
        async with stream(address) as socket:
            await socket.send(json.dumps({"type": "start", "model": name}))
            got[json.loads(await socket.recv())["code"]] += 1
    await asyncio.sleep(0.1)


async def post(address: str, data: bytes, name: str, got: Counter, **headers: str) -> None:
    async with httpx.AsyncClient(timeout=100) as http:
        answer = await http.post(
            f"http{address}v1/audio/transcriptions", files={"file": (name, data)},
            headers={**KEY, **headers},
        )  # fmt: skip
    got[f"HTTP {answer.status_code}"] += 1


async def gzip_bombs(address: str, got: Counter) -> None:
    bomb = gzip.compress(bytes(100_000_000))
    await post(address, bomb, "a.wav.gz", got)
    await post(address, bomb, "a.wav", got, **{"content-encoding": "gzip"})


async def three_hours(address: str, got: Counter) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3 * 3600 * 8000, np.int16), 8000, format="FLAC")
    await post(address, file.getvalue(), "a.flac", got)
    with contextlib.suppress(httpx.TransportError):
        await post(address, bytes(250 << 20), "a.wav", got)


async def empty_files(address: str, got: Counter) -> None:
    await post(address, b"", "a.wav", got)
    await asyncio.sleep(0.05)


def crowd(count: int) -> Rude:
    """So many handshakes, as many at a time as the system lets open."""

    async def come(address: str, got: Counter) -> None:
        gate = asyncio.Semaphore(1000)

        async def one() -> None:
            async with gate:
                try:
                    async with stream(address, open_timeout=100):
                        got["accepted"] += 1
                except websockets.InvalidStatus as error:
                    got[f"HTTP {error.response.status_code}"] += 1
                except Exception as error:
                    got[type(error).__name__] += 1

        await asyncio.gather(*(one() for _ in range(count)))

    return come


def silent(count: int) -> Rude:
    """So many connections that are held open and never say a word."""

    async def come(address: str, got: Counter) -> None:
        place, held = urlsplit("http" + address), []
        for _ in range(0, count, 200):
            opened = await asyncio.gather(
                *(asyncio.open_connection(place.hostname, place.port) for _ in range(200)),
                return_exceptions=True,
            )
            held += [item for item in opened if not isinstance(item, BaseException)]
            got["refused by the system"] += 200 - sum(
                not isinstance(x, BaseException) for x in opened
            )
        got["held open"] += len(held)
        try:  # somebody else still gets in
            async with stream(address, open_timeout=20) as socket:
                await socket.send('{"type": "start"}')
                got["another client: " + json.loads(await socket.recv())["type"]] += 1
        except Exception as error:
            got["another client: " + type(error).__name__] += 1
        await asyncio.sleep(5)
        for _, writer in held:
            writer.transport.abort()

    return come


RUDES: dict[str, Rude] = {
    rude.__name__.replace("_", " "): rude
    for rude in (
        garbage, giant_frames, never_reads, slow_reader, ten_times_faster, cuts, wrong_key, paths,
        gzip_bombs, three_hours, empty_files,
    )
}  # fmt: skip
RUDES |= {"10,000 connections": crowd(10_000), "10,000 that say nothing": silent(10_000)}


if __name__ == "__main__":
    main()
