"""ctcspeech serve: recognition over HTTP and WebSocket."""

import os
from pathlib import Path

import typer

from ctcspeech.cli import decoder_options as decoding
from ctcspeech.cli.decoder_options import DecodingOptions, LmUnit, load_recognizer, make_decoder

__all__ = ["serve"]

KEYS = "CTCSPEECH_KEYS"


def serve(
    models: list[str] = typer.Argument(
        ..., metavar="MODEL...", help="Runs or checkpoint folders; NAME=MODEL gives one a name."
    ),
    host: str = typer.Option("127.0.0.1", help="Address to listen at; 0.0.0.0 for all."),
    port: int = typer.Option(8000, min=0, max=65535, help="Port; 0 takes a free one."),
    key_file: Path | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        help=f"Keys that clients may show, one a line. Also from {KEYS}, separated by spaces.",
    ),
    prefix: str = typer.Option("", help="Path under which a proxy offers the server: /speech."),
    lm: Path | None = decoding.LM,
    lm_unit: LmUnit | None = decoding.LM_UNIT,
    lm_weight: float | None = decoding.LM_WEIGHT,
    word_score: float | None = decoding.WORD_SCORE,
    unk_score: float | None = decoding.UNK_SCORE,
    beam_size: int | None = decoding.BEAM_SIZE,
    beam_threshold: float | None = decoding.BEAM_THRESHOLD,
    hot_word: list[str] | None = decoding.HOT_WORD,
    silence: float = typer.Option(1.2, help="Seconds of silence that end an utterance."),
    silence_alone: float = typer.Option(2.4, help="The same where nothing was said."),
    longest: float = typer.Option(20.0, help="Seconds after which an utterance ends anyway."),
    max_connections: int = typer.Option(200, min=1, help="Streams and uploads at one time."),
    max_upload_mb: int = typer.Option(200, min=1, help="Largest upload."),
    max_upload_minutes: float = typer.Option(120.0, help="Longest recording in an upload."),
    max_message_kb: int = typer.Option(1024, min=1, help="Largest message of a WebSocket."),
    session_minutes: float = typer.Option(240.0, help="Longest session of a WebSocket."),
    idle_seconds: float = typer.Option(60.0, help="A silent client is closed after this."),
    queue_seconds: float = typer.Option(5.0, help="Audio of a stream that may wait."),
    max_batch: int = typer.Option(64, min=1, help="Streams computed at once."),
    max_wait_ms: float = typer.Option(10.0, help="A batch waits so long for more streams."),
    uploads: int = typer.Option(1, min=1, help="Recordings computed at one time."),
    drain_seconds: float = typer.Option(10.0, help="Time for open streams after SIGTERM."),
    page: bool = typer.Option(True, "--page/--no-page", help="Offer the page at /."),
    access_log: bool = typer.Option(
        True, "--access-log/--no-access-log", help="A line of JSON for each request."
    ),
    tls_key: Path | None = typer.Option(None, exists=True, help="Private key, for TLS."),
    tls_certificate: Path | None = typer.Option(None, exists=True, help="Certificate, for TLS."),
    device: str = typer.Option("cpu", help="cpu, cuda, cuda:1, ..."),
) -> None:
    """Recognise speech over HTTP and WebSocket, and on a page in the browser.

    OpenAI's /v1/audio/transcriptions, /v1/models and /v1/realtime; a protocol of its own at
    /v1/stream; vosk-server's at /vosk; /health, /ready, /metrics, /openapi.json; a page at /. The
    access log goes to standard output. SIGTERM ends it once open streams have their last results.

    \b
        ctcspeech serve runs/digits
        ctcspeech serve digits=runs/digits en=runs/english --port 8080 --max-connections 64
        CTCSPEECH_KEYS=secret ctcspeech serve runs/digits --host 0.0.0.0 \\
          --tls-key key.pem --tls-certificate certificate.pem
    """
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        from ctcspeech.errors import CtcSpeechError

        raise CtcSpeechError(
            f"ctcspeech serve needs {error.name}: pip install 'ctcspeech[serve]'"
        ) from error
    if (tls_key is None) != (tls_certificate is None):
        raise typer.BadParameter("--tls-key and --tls-certificate belong together")

    from ctcspeech.live.endpoint import Endpointing
    from ctcspeech.serve.models import named
    from ctcspeech.serve.server import Server
    from ctcspeech.serve.settings import ServeSettings

    try:
        settings = ServeSettings(
            keys=_keys(key_file),
            max_connections=max_connections,
            max_upload_bytes=max_upload_mb << 20,
            max_upload_seconds=60 * max_upload_minutes,
            max_message_bytes=max_message_kb << 10,
            max_session_seconds=60 * session_minutes,
            idle_seconds=idle_seconds,
            queue_seconds=queue_seconds,
            max_batch=max_batch,
            max_wait_seconds=max_wait_ms / 1000,
            drain_seconds=drain_seconds,
            uploads=uploads,
            prefix=prefix.rstrip("/"),
            page=page,
            access_log=access_log,
        )
        endpointing = Endpointing(silence_alone, silence, longest)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    options = DecodingOptions(
        lm=lm, lm_unit=lm_unit, lm_weight=lm_weight, word_score=word_score, unk_score=unk_score,
        beam_size=beam_size, beam_threshold=beam_threshold, hot_words=hot_word or [],
    )  # fmt: skip
    server = Server(settings)
    for argument in models:
        name, model = named(argument)
        recognizer = load_recognizer(model, device, 1)
        decoder = make_decoder(options, recognizer) if options.given() else None
        try:
            server.models.add(name, recognizer, decoder=decoder, endpointing=endpointing)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    tls = {} if tls_key is None else {"ssl_keyfile": tls_key, "ssl_certfile": tls_certificate}
    server.run(host, port, **tls)


def _keys(file: Path | None) -> tuple[str, ...]:
    keys = os.environ.get(KEYS, "").split()
    if file is not None:
        keys += [line.strip() for line in file.read_text().splitlines() if line.strip()]
    return tuple(keys)
