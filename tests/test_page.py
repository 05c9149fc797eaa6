"""The page in a real browser, with a microphone that plays a recording."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright")

from playwright import sync_api
from serving import TEXT, serving, spoken
from tone_language import RATE

from ctcspeech.audio.read import load
from ctcspeech.data.manifest import read_manifest
from ctcspeech.recognize.recognizer import Recognizer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)"),
]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


def microphone(folder, samples, rate):
    """A recording as Chromium's fake microphone plays it: 48 kHz, one channel."""
    path = folder / "microphone.wav"
    soundfile.write(path, soxr.resample(samples, rate, 48000), 48000, "PCM_16")
    return path


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def browse(server, tmp_path):
    with browsing(server, tmp_path) as open_page:
        yield open_page


@contextlib.contextmanager
def browsing(server, tmp_path):
    """A function that opens the page in a new browser; what goes wrong in it fails the test."""
    faults, opened = [], []
    with sync_api.sync_playwright() as playwright, tempfile.TemporaryDirectory() as data:

        def open_page(samples, rate=RATE, **options):
            # Silence before, as a person takes a moment to speak, and after.
            heard = np.concatenate([np.zeros(rate), samples, np.zeros(3 * rate)])
            fake = f"--use-file-for-fake-audio-capture={microphone(tmp_path, heard, rate)}%noloop"
            context = playwright.chromium.launch_persistent_context(
                data, executable_path=CHROMIUM, headless=True, args=[*FLAGS, fake],
                accept_downloads=True, **options,
            )  # fmt: skip
            opened.append(context)
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on(
                "console",
                lambda message: faults.append(message.text) if message.type == "error" else None,
            )
            page.on("request", lambda request: _local(request.url, faults))
            page.goto(f"{server.url}/")
            page.wait_for_selector("#record:not([disabled])")
            return page

        yield open_page
        for context in opened:
            context.close()
    assert faults == []


def _local(url, faults):
    if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "blob:", "data:")):
        faults.append(f"the page asked for {url}")


def texts(page):
    lines = page.query_selector_all("#lines li")
    return [" ".join(line.inner_text().split()[1:]) for line in lines]


def keep(page, name):
    """A picture to be looked at, where CTCSPEECH_SCREENSHOTS names a folder."""
    folder = os.environ.get("CTCSPEECH_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / name)


def test_the_microphone(browse, tmp_path):
    page = browse(np.concatenate([spoken(TEXT + " ", 2.0), spoken("ab ba ", 0.5)]))
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_selector("#current span", timeout=20_000)  # words before the end of the line
    page.wait_for_selector("#lines li:nth-child(2)", timeout=30_000)
    page.keyboard.press("r")
    page.wait_for_selector("#status:text('Ready.')")
    assert texts(page) == [TEXT, "ab ba"]
    assert page.query_selector("#lines .sure") is not None
    assert page.inner_text("#latency").endswith(" ms")
    keep(page, "microphone.png")
    for kind, beginning in (("txt", TEXT), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT")):
        with page.expect_download() as download:
            page.click(f".download[data-format={kind}]")
        text = download.value.path().read_text()
        assert text.startswith(beginning) and TEXT in text and "ab ba" in text
    page.keyboard.press("c")
    assert texts(page) == [] and page.is_disabled(".download[data-format=txt]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_recording_on_a_telephone(browse, tmp_path, scheme):
    page = browse(spoken(), viewport={"width": 360, "height": 740}, color_scheme=scheme)
    soundfile.write(tmp_path / "a.wav", spoken(TEXT, 1.0), RATE)
    page.click("summary")
    page.fill("#words", "cde:3")
    page.set_input_files("#file", tmp_path / "a.wav")
    page.wait_for_selector("#lines li")
    assert texts(page) == [TEXT]
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wider)  # nothing stands out of a telephone's width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    keep(page, f"telephone-{scheme}.png")


@pytest.mark.data
def test_a_person_speaks(tmp_path):
    """A real recording by the microphone: CTCSPEECH_LIVE_MODEL is a streaming model, and
    CTCSPEECH_LIVE_MANIFEST has the recording, the first one, and its text."""
    model, manifest = (os.environ.get(f"CTCSPEECH_LIVE_{x}") for x in ("MODEL", "MANIFEST"))
    if not (model and manifest):
        pytest.skip("CTCSPEECH_LIVE_MODEL and CTCSPEECH_LIVE_MANIFEST name no model")
    (utterance, *_) = read_manifest(manifest)
    recognizer = Recognizer.load(model, threads=1)
    samples = load(utterance.path, recognizer.sample_rate)[0]
    with serving(recognizer) as server, browsing(server, tmp_path) as open_page:
        page = open_page(samples, rate=recognizer.sample_rate)
        page.keyboard.press("r")
        page.wait_for_selector("#current span", timeout=30_000)
        page.wait_for_timeout(1000 * (len(samples) / recognizer.sample_rate + 2))
        keep(page, "person.png")
        page.keyboard.press("r")
        page.wait_for_selector("#status:text('Ready.')", timeout=20_000)
        keep(page, "person-end.png")
        assert " ".join(texts(page)) == utterance.text


def test_by_keyboard_alone(browse):
    page = browse(spoken())
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"record", "file", "clear", "SUMMARY", "drop"} <= set(reached)


def test_a_wrong_recording_is_told(browse, tmp_path):
    page = browse(spoken())
    (tmp_path / "a.wav").write_bytes(b"no audio")
    page.set_input_files("#file", tmp_path / "a.wav")
    page.wait_for_selector("#status.alarm")
    assert "cannot be read" in page.inner_text("#status")
