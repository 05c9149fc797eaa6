"""The server, by real clients over the loopback: OpenAI's, vosk's, and our own protocol."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import openai
import soxr
import websockets
from serving import TEXT, chunks, pcm, serving, spoken, wav
from tone_language import RATE
from tone_stream import save_tones
from websockets.sync.client import connect

from ctcspeech.serve.models import named
from ctcspeech.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


_clients = []


@pytest.fixture(autouse=True)
def closing_clients():
    yield
    while _clients:
        _clients.pop().close()


def client(server, key="none"):
    _clients.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0))
    return _clients[-1]


# -- files, as OpenAI's client sends them -------------------------------------------------------


def test_openai_client_json_and_text(server):
    api = client(server)
    answer = api.audio.transcriptions.create(model="tones", file=("a.wav", wav(spoken())))
    assert answer.text == TEXT and answer.usage.type == "duration" and answer.usage.seconds >= 1
    for kind in ("FLAC", "OGG"):
        file = (f"a.{kind.lower()}", wav(spoken(), kind=kind))
        assert api.audio.transcriptions.create(model="tones", file=file).text == TEXT
    text = api.audio.transcriptions.create(
        model="tones", file=("a.wav", wav(spoken())), response_format="text"
    )
    assert text == TEXT + "\n"
    with_logprobs = api.audio.transcriptions.create(
        model="tones", file=("a.wav", wav(spoken())), include=["logprobs"]
    )
    assert "".join(item.token for item in with_logprobs.logprobs) == TEXT
    assert all(item.logprob <= 0 for item in with_logprobs.logprobs)


def test_openai_client_verbose_and_subtitles(server):
    api, file = client(server), ("a.wav", wav(spoken()))
    answer = api.audio.transcriptions.create(
        model="tones",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.text == TEXT
    assert [word.word for word in answer.words] == TEXT.split()
    starts = [word.start for word in answer.words]
    assert starts == sorted(starts) and 0 <= starts[0] < 0.1
    assert [segment.text for segment in answer.segments] == [TEXT]
    assert answer.duration == pytest.approx(len(spoken()) / RATE, abs=0.02)
    only_words = api.audio.transcriptions.create(
        model="tones", file=file, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert only_words.words and only_words.segments is None
    srt = api.audio.transcriptions.create(model="tones", file=file, response_format="srt")
    assert srt.startswith("1\n00:00:00,") and TEXT in srt
    vtt = api.audio.transcriptions.create(model="tones", file=file, response_format="vtt")
    assert vtt.startswith("WEBVTT") and TEXT in vtt


def test_openai_client_stream(server):
    long = np.concatenate([spoken(TEXT, 2.0, seed) for seed in range(30)])  # cut into passages
    events = list(
        client(server).audio.transcriptions.create(
            model="tones", file=("a.wav", wav(long)), stream=True
        )
    )
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) > 1 and events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text == " ".join([TEXT] * 30)


def test_models(server):
    api = client(server)
    assert [model.id for model in api.models.list()] == ["tones"]
    assert api.models.retrieve("tones").object == "model"
    with pytest.raises(openai.NotFoundError, match="no model"):
        api.models.retrieve("other")


@pytest.mark.parametrize(
    "change, status, code",
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"model": "../../etc/passwd"}, 404, "model_not_found"),
        ({"response_format": "xml"}, 400, "bad_value"),
        ({"timestamp_granularities": ["word"]}, 400, "bad_value"),
        ({"file": ("a.wav", b"")}, 400, "invalid_audio"),
        ({"file": ("a.wav", b"no audio at all" * 100)}, 400, "invalid_audio"),
        ({"file": ("a.wav", wav(spoken())[:30])}, 400, "invalid_audio"),
    ],
)
def test_bad_uploads(server, change, status, code):
    values = {"model": "tones", "file": ("a.wav", wav(spoken())), **change}
    with pytest.raises(openai.APIStatusError) as caught:
        client(server).audio.transcriptions.create(**values)
    assert caught.value.status_code == status and caught.value.code == code
    assert "/tmp" not in str(caught.value)


def test_uploads_that_are_no_form(server):
    url = f"{server.url}/v1/audio/transcriptions"
    assert httpx.post(url, content=b"x").status_code == 400
    assert httpx.post(url, data={"model": "tones"}).status_code == 400
    gzip = {"content-encoding": "gzip", "content-type": "multipart/form-data; boundary=x"}
    assert httpx.post(url, content=b"x", headers=gzip).status_code == 415
    damaged = {"content-type": "multipart/form-data; boundary=x"}
    assert httpx.post(url, content=b"--y\r\nz", headers=damaged).status_code == 400
    assert httpx.get(url).status_code == 405


# -- the native protocol ------------------------------------------------------------------------


def native(server, samples, start=None, size=320, pace=0.0, end='{"type": "end"}'):
    """All messages of a session."""
    with connect(f"{server.ws}/v1/stream", subprotocols=["ctcspeech.v1"]) as socket:
        socket.send(json.dumps({"type": "start", "sample_rate": RATE, **(start or {})}))
        messages = [json.loads(socket.recv(10))]
        data = samples if isinstance(samples, bytes) else pcm(samples)
        for part in chunks(data, size):
            socket.send(part)
            time.sleep(pace)
        if end:
            socket.send(end)
        for message in socket:
            messages.append(json.loads(message))
    return messages


def finals(messages):
    return [message for message in messages if message["type"] == "final"]


def test_native_stream(server):
    messages = native(server, spoken(), {"version": 1, "model": "tones"}, pace=0.005)
    assert messages[0]["type"] == "ready" and messages[0]["frame_ms"] == 20.0
    assert messages[-1]["type"] == "done"
    assert messages[-1]["audio_seconds"] == pytest.approx(len(spoken()) / RATE, abs=0.01)
    kinds = [message["type"] for message in messages]
    assert kinds.index("speech") < kinds.index("partial") < kinds.index("final")
    (final,) = finals(messages)
    assert final["text"] == final["stable"] == TEXT and final["reason"] == "end"
    assert [word["word"] for word in final["words"]] == TEXT.split()
    stable = ""
    for message in messages:
        if message["type"] == "partial":
            assert message["stable"].startswith(stable)
            stable = message["stable"]


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_native_messages_of_any_size(server, size):
    samples = spoken("ab", 0.1) if size == 1 else spoken()
    (final,) = finals(native(server, samples, size=size))
    assert final["text"] == ("ab" if size == 1 else TEXT)


@pytest.mark.parametrize("encoding", ["f32le", "s16be", "mulaw", "alaw"])
def test_native_encodings(server, encoding):
    import soundfile

    samples = spoken()
    subtype = {"f32le": "FLOAT", "s16be": "PCM_16", "mulaw": "ULAW", "alaw": "ALAW"}[encoding]
    endian = "BIG" if encoding == "s16be" else "LITTLE"
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, subtype, endian, "RAW")
    (final,) = finals(native(server, file.getvalue(), {"encoding": encoding}, size=777))
    assert final["text"] == TEXT


def test_native_rates_hot_words_and_n_best(server):
    faster = soxr.resample(spoken(), RATE, 44100).astype(np.float32)
    start = {"sample_rate": 44100, "n_best": 4, "hot_words": {"cde": 3.0}, "words": False}
    (final,) = finals(native(server, faster, start))
    assert final["text"] == TEXT and "words" not in final
    assert final["alternatives"][0]["text"] == TEXT and len(final["alternatives"]) > 1


def test_native_endpoints_and_commit(server):
    both = np.concatenate([spoken("ab ", 1.0), spoken("cd", 1.0)])
    rules = {"endpointing": {"silence_after_speech": 0.4}}
    assert [item["text"] for item in finals(native(server, both, rules))] == ["ab", "cd"]
    off = finals(native(server, both, {"endpointing": False}))
    assert [item["text"] for item in off] == ["ab cd"]
    with connect(f"{server.ws}/v1/stream") as socket:
        socket.send(json.dumps({"type": "start", "sample_rate": RATE, "endpointing": False}))
        assert json.loads(socket.recv())["type"] == "ready"
        socket.send(pcm(spoken("ab")))
        socket.send('{"type": "commit"}')
        while (message := json.loads(socket.recv(10)))["type"] != "final":
            pass
        assert message["text"] == "ab" and message["reason"] == "commit"
        socket.send('{"type": "hot_words", "hot_words": ["abc"]}')
        socket.send('{"type": "ping", "id": 7}')
        assert json.loads(socket.recv(10)) == {"type": "pong", "id": 7}


@pytest.mark.parametrize(
    "text, code",
    [
        ("{", "bad_json"),
        ("[1]", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"type": "commit"}', "bad_message"),
        ('{"type": "start", "version": 2}', "version"),
        ('{"type": "start", "model": "../../etc/passwd"}', "model_not_found"),
        ('{"type": "start", "model": 7}', "bad_value"),
        ('{"type": "start", "sample_rate": 1}', "bad_value"),
        ('{"type": "start", "sample_rate": "fast"}', "bad_value"),
        ('{"type": "start", "encoding": "mp3"}', "bad_value"),
        ('{"type": "start", "n_best": 1000}', "bad_value"),
        ('{"type": "start", "partials": 1}', "bad_value"),
        ('{"type": "start", "hot_words": "ab"}', "bad_value"),
        ('{"type": "start", "hot_words": {"ab": 1e9}}', "bad_value"),
        ('{"type": "start", "hot_words": ["xyz!"]}', "bad_value"),
        ('{"type": "start", "endpointing": {"silence": 1}}', "bad_value"),
        ('{"type": "start", "endpointing": {"silence_alone": -1}}', "bad_value"),
        ('{"type": "start", "samplerate": 8000}', "bad_message"),
    ],
)
def test_native_refuses(server, text, code):
    with connect(f"{server.ws}/v1/stream") as socket:
        socket.send(text)
        message = json.loads(socket.recv(10))
        assert message["type"] == "error" and message["code"] == code
        with pytest.raises(websockets.ConnectionClosed) as caught:
            socket.recv(10)
        assert caught.value.rcvd.code == 4400


def test_native_bad_audio(server):
    with connect(f"{server.ws}/v1/stream") as socket:
        socket.send(b"1234")
        assert json.loads(socket.recv(10))["code"] == "bad_message"
    samples = np.full(100, np.nan, "<f4")
    with connect(f"{server.ws}/v1/stream") as socket:
        socket.send('{"type": "start", "encoding": "f32le"}')
        assert json.loads(socket.recv(10))["type"] == "ready"
        socket.send(samples.tobytes())
        message = json.loads(socket.recv(10))
        assert message["code"] == "bad_audio" and "NaN" in message["message"]
        with pytest.raises(websockets.ConnectionClosed) as caught:
            socket.recv(10)
        assert caught.value.rcvd.code == 4400


# -- OpenAI's realtime protocol -----------------------------------------------------------------


async def realtime(server, samples, update, commit=False, count=1):
    """Events of a session by the openai client, until `count` items are complete."""
    api = openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", websocket_base_url=f"{server.ws}/v1", api_key="none"
    )
    events = []
    query = {"intent": "transcription"}
    async with api, api.realtime.connect(extra_query=query, model="tones") as connection:
        events.append(await asyncio.wait_for(connection.recv(), 10))
        await connection.session.update(session=update)
        for part in chunks(samples, 2400):
            await connection.input_audio_buffer.append(audio=base64.b64encode(part).decode())
        if commit:
            await connection.input_audio_buffer.commit()
        while count:
            events.append(await asyncio.wait_for(connection.recv(), 20))
            assert events[-1].type != "error", events[-1]
            count -= events[-1].type.endswith("transcription.completed")
    return events


def session(kind="audio/pcm", vad=None):
    shape = {"type": kind, "rate": 24000} if kind == "audio/pcm" else {"type": kind}
    audio = {"format": shape, "transcription": {"model": "tones"}, "turn_detection": vad}
    return {"type": "transcription", "audio": {"input": audio}}


def of(events, ending):
    return [event for event in events if event.type.endswith(ending)]


def test_realtime_with_server_vad(server):
    both = np.concatenate([spoken("ab cd", 1.0), spoken("e", 1.0)])
    samples = pcm(soxr.resample(both, RATE, 24000))
    vad = {"type": "server_vad", "silence_duration_ms": 400}
    events = asyncio.run(realtime(server, samples, session(vad=vad), count=2))
    assert events[0].type == "session.created"
    (updated,) = of(events, "session.updated")
    assert updated.session.audio.input.turn_detection.silence_duration_ms == 400
    done = of(events, "transcription.completed")
    assert [event.transcript for event in done] == ["ab cd", "e"]
    for event in done:  # deltas only ever append, and make up the transcript
        mine = [e for e in of(events, "transcription.delta") if e.item_id == event.item_id]
        assert "".join(delta.delta for delta in mine) == event.transcript
        assert event.usage.type == "duration" and event.usage.seconds > 0
    started, stopped = of(events, "speech_started"), of(events, "speech_stopped")
    assert [e.item_id for e in started] == [e.item_id for e in stopped]
    assert started[0].audio_start_ms < 200 < stopped[0].audio_end_ms
    committed = of(events, "input_audio_buffer.committed")
    assert [e.item_id for e in committed] == [e.item_id for e in done]
    assert committed[1].previous_item_id == committed[0].item_id


@pytest.mark.parametrize("kind", ["audio/pcm", "audio/pcmu", "audio/pcma"])
def test_realtime_with_commit(server, kind):
    samples = spoken("ab cd e", 0.05)
    if kind == "audio/pcm":
        data = pcm(soxr.resample(samples, RATE, 24000))
    else:
        import io

        import soundfile

        file = io.BytesIO()
        subtype = "ULAW" if kind == "audio/pcmu" else "ALAW"
        soundfile.write(file, samples, RATE, subtype, format="RAW")
        data = file.getvalue()
    events = asyncio.run(realtime(server, data, session(kind), commit=True))
    (done,) = of(events, "transcription.completed")
    assert done.transcript == "ab cd e"  # the last word, too, which no silence follows
    assert "".join(e.delta for e in of(events, "transcription.delta")) == "ab cd e"
    assert not of(events, "speech_started")


def test_realtime_several_commits_clear_and_errors(server):
    url = f"{server.ws}/v1/realtime?intent=transcription"  # no model: as Pipecat calls it
    with connect(url, subprotocols=["realtime"]) as socket:

        def ask(message):
            socket.send(json.dumps(message))

        def until(ending):
            while not (message := json.loads(socket.recv(10)))["type"].endswith(ending):
                assert message["type"] != "error", message
            return message

        def append(text):
            data = pcm(soxr.resample(spoken(text, 0.1), RATE, 24000))
            ask({"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()})

        until("session.created")
        ask({"type": "session.update", "session": session()})
        assert until("session.updated")["session"]["audio"]["input"]["turn_detection"] is None
        for text in ("ab", "cd ab"):
            append(text)
            ask({"type": "input_audio_buffer.commit"})
            assert until("completed")["transcript"] == text
        append("eee")
        ask({"type": "input_audio_buffer.clear"})
        until("input_audio_buffer.cleared")
        wrong = [
            ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
            ({"type": "input_audio_buffer.append", "audio": "%%%"}, "bad_value"),
            ({"type": "response.create", "event_id": "mine"}, "unknown_event"),
            ({"type": "session.update", "session": {"type": "realtime"}}, "unsupported"),
            ({"type": "session.update", "session": session("audio/opus")}, "bad_value"),
            ({"type": "session.update", "session": session(vad={"type": "magic"})}, "bad_value"),
            ("nonsense", "bad_json"),
        ]
        for message, code in wrong:  # each is told, and the session goes on
            ask(message) if isinstance(message, dict) else socket.send(message)
            error = json.loads(socket.recv(10))
            assert error["type"] == "error" and error["error"]["code"] == code
            if isinstance(message, dict) and "event_id" in message:
                assert error["error"]["event_id"] == "mine"
        append("ba")
        ask({"type": "input_audio_buffer.commit"})
        assert until("completed")["transcript"] == "ba"
    with connect(f"{server.ws}/v1/realtime?model=../x") as socket:
        assert json.loads(socket.recv(10))["error"]["code"] == "model_not_found"
        with pytest.raises(websockets.ConnectionClosed) as caught:
            socket.recv(10)
        assert caught.value.rcvd.code == 4404


# -- vosk-server's clients ----------------------------------------------------------------------


async def vosk_client(uri, data, config, size=1600):
    """As vosk-server's own example client goes: an answer is awaited for each chunk."""
    answers = []
    async with websockets.connect(uri) as websocket:
        await websocket.send(json.dumps({"config": config}))
        for part in chunks(data, size):
            await websocket.send(part)
            answers.append(json.loads(await asyncio.wait_for(websocket.recv(), 10)))
        await websocket.send('{"eof" : 1}')
        answers.append(json.loads(await asyncio.wait_for(websocket.recv(), 10)))
    return answers


def test_vosk_client(server):
    both = np.concatenate([spoken("ab cd", 2.0), spoken("e ab", 0.1)])
    config = {"sample_rate": RATE, "words": True}
    answers = asyncio.run(vosk_client(f"{server.ws}/vosk", pcm(both), config))
    assert any("partial" in answer and answer["partial"] for answer in answers)
    texts = [answer["text"] for answer in answers if "text" in answer]
    assert texts == ["ab cd", "e ab"]
    result = answers[-1]["result"]
    assert [word["word"] for word in result] == ["e", "ab"]
    assert all(0 <= word["conf"] <= 1 and word["end"] >= word["start"] > 2 for word in result)


def test_vosk_alternatives_phrases_reset_and_refusals(server):
    config = {"sample_rate": RATE, "max_alternatives": 3, "phrase_list": ["ab", "[unk]"]}
    answers = asyncio.run(vosk_client(f"{server.ws}/vosk", pcm(spoken("ab", 0.1)), config))
    assert answers[-1]["alternatives"][0]["text"] == "ab"
    with connect(f"{server.ws}/vosk") as socket:
        socket.send(pcm(spoken("ab", 0.1)))
        assert "partial" in json.loads(socket.recv(10))
        socket.send('{"reset": 1}')
        socket.send('{"eof": 1}')
        assert json.loads(socket.recv(10)) == {"text": ""}
    with connect(f"{server.ws}/vosk") as socket:
        socket.send('{"config": {"model": "/etc/passwd"}}')
        assert "model" in json.loads(socket.recv(10))["error"]


# -- what surrounds them ------------------------------------------------------------------------


def test_health_metrics_and_description(server):
    native(server, spoken())
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready", "models": ["tones"]}
    text = httpx.get(f"{server.url}/metrics").text
    for name in (
        "streams", "connections", "batch_size_count", "queue_delay_seconds_count",
        "real_time_factor", "partial_latency_seconds_count", "final_latency_seconds_count",
        "refusals_total",
    ):  # fmt: skip
        assert f"ctcspeech_{name}" in text
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert {"/v1/audio/transcriptions", "/v1/models", "/health", "/ready", "/metrics"} <= set(paths)


def test_access_log(server):
    native(server, spoken())
    httpx.get(f"{server.url}/v1/models?key=secret")
    time.sleep(0.2)
    lines = [json.loads(line) for line in server.log.getvalue().splitlines()]
    stream = [line for line in lines if line["path"] == "/v1/stream"][-1]
    assert stream["status"] == 1000 and stream["model"] == "tones"
    assert stream["audio_seconds"] == pytest.approx(len(spoken()) / RATE, abs=0.01)
    assert "secret" not in server.log.getvalue()


def test_keys():
    with serving(keys=("first", "second")) as server:
        api = client(server, "second")
        assert api.audio.transcriptions.create(model="tones", file=("a.wav", wav(spoken()))).text
        for key in ("third", "secon", "second2", "ä"):
            headers = {"authorization": b"Bearer " + key.encode()}
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 401
            assert httpx.get(f"{server.url}/metrics", headers=headers).status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
        for path in ("/v1/stream", "/v1/realtime", "/vosk"):
            with connect(server.ws + path) as socket:
                with pytest.raises(websockets.ConnectionClosed) as caught:
                    socket.recv(10)
                assert caught.value.rcvd.code == 4401
        bearer = {"Authorization": "Bearer first"}
        with connect(f"{server.ws}/v1/stream", additional_headers=bearer) as socket:
            socket.send('{"type": "start"}')
            assert json.loads(socket.recv(10))["type"] == "ready"
        offered = ["ctcspeech.v1", "ctcspeech-key.second"]  # as a browser must
        with connect(f"{server.ws}/v1/stream", subprotocols=offered) as socket:
            assert socket.subprotocol == "ctcspeech.v1"
            socket.send('{"type": "start"}')
            assert json.loads(socket.recv(10))["type"] == "ready"
        assert (
            'refusals_total{reason="key"}'
            in httpx.get(f"{server.url}/metrics", headers=bearer).text
        )


def test_prefix_of_a_proxy():
    with serving(prefix="/speech") as server:
        for start in ("", "/speech"):  # cut off by the proxy, or not
            assert httpx.get(f"{server.url}{start}/health").status_code == 200
            page = httpx.get(f"{server.url}{start}/")
            assert page.status_code == 200 and 'src="page.js"' in page.text
        assert httpx.get(f"{server.url}/speechless/health").status_code == 404
        with connect(f"{server.ws}/speech/v1/stream") as socket:
            socket.send('{"type": "start"}')
            assert json.loads(socket.recv(10))["type"] == "ready"


def test_page_has_a_strict_policy(server):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/worklet.js", "")):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 200 and kind in answer.headers["content-type"]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "http:" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text


def test_draining_sends_the_finals():
    with serving() as server:
        with connect(f"{server.ws}/v1/stream") as socket:
            socket.send(json.dumps({"type": "start", "sample_rate": RATE}))
            assert json.loads(socket.recv(10))["type"] == "ready"
            socket.send(pcm(spoken("ab cd", 0.1)))
            time.sleep(0.3)
            server.runner.handle_exit(signal.SIGTERM, None)
            messages = []
            with pytest.raises(websockets.ConnectionClosed) as caught:
                while True:
                    messages.append(json.loads(socket.recv(10)))
        assert [item["text"] for item in finals(messages)] == ["ab cd"]
        assert messages[-1]["type"] == "done" and caught.value.rcvd.code == 1001
        server.thread.join(10)
        assert not server.thread.is_alive()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tones(tmp_path_factory.mktemp("models") / "tones")


def test_the_command_ends_well_on_sigterm(checkpoint):
    command = [sys.executable, "-m", "ctcspeech", "serve", f"mine={checkpoint}", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        assert line.startswith("serving mine at http://127.0.0.1:")
        url = line.split(" at ")[1].strip()
        for _ in range(200):
            try:
                assert httpx.get(f"{url}health").status_code == 200
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["path"] == "/health"


def test_tls(checkpoint, tmp_path):
    """The command's own options, by clients that check the certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    command = [sys.executable, "-m", "ctcspeech", "serve", f"tones={checkpoint}", "--port", "0"]
    command += ["--tls-key", str(key), "--tls-certificate", str(certificate)]
    context = ssl.create_default_context(cafile=certificate)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("serving tones at https://127.0.0.1:"), line
            url = line.split(" at ")[1].strip()
            files = {"file": ("a.wav", wav(spoken()))}
            with httpx.Client(verify=context, timeout=30) as trusting:
                answer = trusting.post(f"{url}v1/audio/transcriptions", files=files)
            assert answer.json()["text"] == TEXT
            with connect(url.replace("https", "wss") + "v1/stream", ssl=context) as stream:
                stream.send(json.dumps({"type": "start", "sample_rate": RATE}))
                stream.send(pcm(spoken(TEXT, 2.0)))
                stream.send('{"type": "end"}')
                found = [json.loads(message) for message in stream]
            assert [m["text"] for m in found if m["type"] == "final"] == [TEXT]
            with pytest.raises(httpx.ConnectError, match="(?i)certificate"):
                httpx.get(f"{url}health")  # whoever does not know the certificate is warned
            with pytest.raises(httpx.HTTPError):
                httpx.get(url.replace("https", "http") + "health")  # nothing goes in the clear
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_names_and_settings():
    assert named("a=b/c") == ("a", "b/c") and named("runs/x") == ("x", "runs/x")
    with pytest.raises(ValueError, match="max_connections must be above 0"):
        ServeSettings(max_connections=0)
    with pytest.raises(ValueError, match="prefix must look like"):
        ServeSettings(prefix="speech/")
