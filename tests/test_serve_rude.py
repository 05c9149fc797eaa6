"""Rude clients: each gets the right refusal, and a polite one beside it does not wait for it."""

import asyncio
import base64
import contextlib
import gzip
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import uvicorn
import websockets
from serving import TEXT, chunks, pcm, serving, spoken, wav
from tone_language import RATE
from websockets.sync.client import connect

from ctcspeech.serve.server import Draining, Server
from ctcspeech.serve.settings import ServeSettings

START = json.dumps({"type": "start", "sample_rate": RATE})


@contextlib.contextmanager
def polite(server):
    """A paced client that goes on beside the test; its text must be right in the end."""
    found, ended = [], threading.Event()

    def speak():
        with connect(f"{server.ws}/v1/stream") as stream:
            stream.send(START)
            stream.recv(10)
            while True:
                for part in chunks(pcm(spoken(TEXT + " ", 1.5)), 640):
                    stream.send(part)
                    time.sleep(0.02)
                if ended.is_set():
                    break
            stream.send('{"type": "end"}')
            found.extend(json.loads(message) for message in stream)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
    finals = [message["text"] for message in found if message["type"] == "final"]
    assert finals and set(finals) == {TEXT}
    assert found[-1]["type"] == "done"


def refusals(server, reason):
    name = f'ctcspeech_refusals_total{{reason="{reason}"}} '
    text = httpx.get(f"{server.url}/metrics").text
    return sum(float(line[len(name) :]) for line in text.splitlines() if line.startswith(name))


def closed(stream, timeout=20):
    """The closing code, whatever comes before it."""
    try:
        while True:
            stream.recv(timeout)
    except websockets.ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else 1006


@pytest.fixture(scope="module")
def server():
    with serving(
        max_connections=12,
        max_upload_bytes=3_000_000,
        max_upload_seconds=60.0,
        idle_seconds=6.0,
        send_seconds=1.0,
        queue_seconds=1.0,
    ) as running:
        yield running


def test_garbage(server):
    with polite(server):
        for garbage in ("{", "\x00", "null", '"text"', '{"type": ' + "[" * 50_000, "{}" * 1000):
            with connect(f"{server.ws}/v1/stream") as stream:
                stream.send(garbage)
                assert closed(stream) == 4400
            with connect(f"{server.ws}/vosk") as stream:
                stream.send(garbage)
                assert closed(stream) == 4400
            with connect(f"{server.ws}/v1/realtime") as stream:
                stream.send(garbage)
                assert json.loads(stream.recv(10))["type"] == "session.created"
                assert json.loads(stream.recv(10))["error"]["code"] in ("bad_json", "unknown_event")
        with socket.create_connection(server.runner.servers[0].sockets[0].getsockname()) as raw:
            raw.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
            raw.settimeout(10)
            assert b"400" in raw.recv(100)
    assert refusals(server, "bad_message") > 0


def test_giant_frames(server):
    with polite(server):
        for path in ("/v1/stream", "/vosk"):
            with connect(server.ws + path, max_size=None) as stream:
                stream.send(b"\0" * (2 << 20))
                assert closed(stream) == 1009
        with connect(f"{server.ws}/v1/realtime", max_size=None) as stream:
            audio = base64.b64encode(b"\0" * (16 << 20)).decode()
            with contextlib.suppress(websockets.ConnectionClosed):
                stream.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            # 1006: the server closed while the client was still sending, and its word was lost.
            assert closed(stream) in (1009, 1006)


def test_one_that_never_reads(server):
    """Its socket fills up, then it is closed; meanwhile it holds no one up."""
    with polite(server):
        address = server.runner.servers[0].sockets[0].getsockname()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(address)
        gone = False
        with (
            contextlib.suppress(OSError),
            connect(
                server.ws + "/v1/stream",
                sock=raw,
                max_queue=1,
                close_timeout=0.1,
                ping_interval=None,
            ) as stream,
        ):
            stream.send(START)
            try:
                for _ in range(200_000):
                    stream.send('{"type": "ping", "id": "' + "x" * 500 + '"}')
            except (websockets.ConnectionClosed, OSError):
                gone = True
        assert gone
    assert refusals(server, "slow_reader") == 1


def test_a_slow_reader_gets_its_finals(server):
    with polite(server):
        with connect(f"{server.ws}/v1/stream") as stream:
            stream.send(START)
            for part in chunks(pcm(np.concatenate([spoken(TEXT + " ", 1.5)] * 3)), 3200):
                stream.send(part)
            stream.send('{"type": "end"}')
            found = []
            for message in stream:
                time.sleep(0.02)
                found.append(json.loads(message))
    assert [m["text"] for m in found if m["type"] == "final"] == [TEXT] * 3


def test_one_that_sends_ten_times_faster(server):
    """It is made to wait by the bounded queue; all it says is recognised."""
    said = pcm(np.concatenate([spoken(TEXT + " ", 1.5)] * 12))
    with polite(server):
        with connect(f"{server.ws}/v1/stream") as stream:
            stream.send(START)
            largest = 0.0
            for part in chunks(said, 1600):
                stream.send(part)
                time.sleep(0.01)
                handles = server.models.by_name["tones"].batcher._handles.copy().values()
                largest = max([largest, *(handle.queued for handle in handles)])
            stream.send('{"type": "end"}')
            found = [json.loads(message) for message in stream]
    assert [m["text"] for m in found if m["type"] == "final"] == [TEXT] * 12
    assert largest < 1.5


def test_a_cut_in_mid_utterance(server):
    with polite(server):
        for _ in range(5):
            with contextlib.suppress(OSError), connect(f"{server.ws}/v1/stream") as stream:
                stream.send(START)
                stream.send(pcm(spoken())[:4000])
                stream.socket.shutdown(socket.SHUT_RDWR)  # no closing handshake
        deadline = time.monotonic() + 10
        while len(server.models.by_name["tones"].batcher._handles) > 1:
            assert time.monotonic() < deadline, "streams of lost connections are still open"
            time.sleep(0.05)


def test_idle(server):
    with connect(f"{server.ws}/v1/stream") as stream:
        stream.send(START)
        assert closed(stream) == 4408
    assert refusals(server, "idle") >= 1


def test_session_time():
    with serving(max_session_seconds=1.0) as server:
        with connect(f"{server.ws}/v1/stream") as stream:
            stream.send(START)
            with contextlib.suppress(websockets.ConnectionClosed):
                for part in chunks(pcm(spoken(TEXT, 5.0)), 640):
                    stream.send(part)
                    time.sleep(0.04)
            assert closed(stream) == 4408


def test_too_many_connections():
    with (
        serving(max_connections=12) as server,
        polite(server),
        contextlib.ExitStack() as held,
    ):
        for _ in range(11):
            stream = held.enter_context(connect(f"{server.ws}/v1/stream"))
            stream.send(START)
            assert json.loads(stream.recv(10))["type"] == "ready"
        # 10,000 are for the load tool; what each of them gets is this.
        for _ in range(100):
            with pytest.raises(websockets.InvalidStatus) as caught:
                with connect(f"{server.ws}/v1/stream"):
                    pass
            assert caught.value.response.status_code == 503
            assert int(caught.value.response.headers["Retry-After"]) > 0
        answer = httpx.post(f"{server.url}/v1/audio/transcriptions", data={"model": "tones"})
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        assert answer.json()["error"]["code"] == "overloaded"
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert refusals(server, "connections") > 100


def test_a_crowd_is_taken_up_a_few_at_a_time():
    """All of them wait in the system, and between two handfuls everybody else is served."""

    async def come() -> list[int]:
        served = Server(ServeSettings())
        config = uvicorn.Config(served.app, "127.0.0.1", 0, **served.uvicorn_options())
        runner, grown = Draining(config, served), []
        with config.bind_socket() as bound, contextlib.ExitStack() as crowd:
            config.load()
            runner.lifespan = config.lifespan_class(config)
            await runner.startup(sockets=[bound])
            for _ in range(200):  # the system takes them all, while this loop stands still
                client = socket.create_connection(bound.getsockname(), timeout=5)
                crowd.enter_context(client)
            while sum(grown) < 200:
                before = len(runner.server_state.connections)
                await asyncio.sleep(0)  # one turn of the loop
                grown.append(len(runner.server_state.connections) - before)
            runner.force_exit = True
            await runner.shutdown(sockets=[bound])
        return grown

    grown = asyncio.run(asyncio.wait_for(come(), 60))
    assert sum(grown) == 200 and max(grown) <= 32  # two turns may have been one


def test_paths_as_model_names(server):
    for name in ("../../../etc/passwd", "/etc/passwd", "tones/../tones", "file:///etc", "hf:a/b"):
        with connect(f"{server.ws}/v1/stream") as stream:
            stream.send(json.dumps({"type": "start", "model": name}))
            assert json.loads(stream.recv(10))["code"] == "model_not_found"
        files = {"file": ("a.wav", wav(spoken()))}
        url = f"{server.url}/v1/audio/transcriptions"
        assert httpx.post(url, data={"model": name}, files=files).status_code == 404


def post(server, data, name="a.wav", **headers):
    url = f"{server.url}/v1/audio/transcriptions"
    return httpx.post(
        url, data={"model": "tones"}, files={"file": (name, data)}, headers=headers, timeout=60
    )


def test_uploads_that_are_too_much(server):
    with polite(server):
        # A gzip bomb is no recording; as an encoding of the request it is not unpacked.
        bomb = gzip.compress(b"\0" * 50_000_000)
        answer = post(server, bomb, "a.wav.gz")
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_audio"
        assert post(server, bomb, **{"content-encoding": "gzip"}).status_code == 415
        # Hours of silence that flac makes small, and a size that says so at once.
        file = io.BytesIO()
        soundfile.write(file, np.zeros(3 * 3600 * 100, np.int16), 100 * 10, format="FLAC")
        answer = post(server, file.getvalue(), "a.flac")
        assert answer.status_code == 400 and "longer than 60 s" in answer.json()["error"]["message"]
        three_hours = b"\0" * 4_000_000
        assert post(server, three_hours).status_code == 413
        assert refusals(server, "upload_size") >= 1

        def endless():  # without a length
            for _ in range(100):
                yield b"\0" * 100_000

        form = {"content-type": "multipart/form-data; boundary=x"}
        url = f"{server.url}/v1/audio/transcriptions"
        head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):
            answer = httpx.post(url, content=_joined(head, endless()), headers=form, timeout=60)
            assert answer.status_code == 413
        assert post(server, b"").status_code == 400


def _joined(head, parts):
    yield head
    yield from parts


def test_an_upload_that_is_broken_off(server):
    with polite(server):
        address = server.runner.servers[0].sockets[0].getsockname()
        with socket.create_connection(address) as raw:
            raw.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n"
                b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
        assert post(server, wav(spoken())).json()["text"] == TEXT
        deadline = time.monotonic() + 10
        while server.state.connections > 1:
            assert time.monotonic() < deadline, "a broken upload is still counted"
            time.sleep(0.05)


def test_an_upload_that_stands_still(server):
    address = server.runner.servers[0].sockets[0].getsockname()
    with socket.create_connection(address) as raw:
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n"
            b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        raw.settimeout(20)
        assert b" 408 " in raw.recv(100)
