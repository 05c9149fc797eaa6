"""The pictures of this documentation, of what the recipes synthesise: no recording of a person.

    bash recipes/digits/run.sh && bash recipes/digits/run.sh --streaming && bash recipes/pen/run.sh
    python docs/pictures.py --digits runs/digits --pen runs/pen            # into docs/assets
    python docs/pictures.py --digits runs/digits augment curves            # some of them
    python docs/pictures.py --joint runs/joint --spoken test.jsonl attention

`listen` and `page` run the forward-only model, DIGITS/streaming (or --live MODEL); `attention` a
model with an attention decoder on the synthetic recipe's test.
Needs the extras [recipes] and [serve], and for `page` playwright and chromium.
"""

import argparse
import html
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from matplotlib.figure import Figure
from PIL import Image

from ctcspeech import audio, read_manifest
from ctcspeech.data.augment import AugmentConfig, Augmenter
from ctcspeech.errors import CtcSpeechError
from ctcspeech.evaluate.plot import plot_training
from ctcspeech.evaluate.plot_lattice import example, plot_lattice
from ctcspeech.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "docs" / "assets"
LARGEST = 100_000  # bytes
COMMAND = (sys.executable, "-m", "ctcspeech")
PICTURES: dict[str, Callable[[argparse.Namespace], None]] = {}


def picture(draw: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    PICTURES[draw.__name__] = draw
    return draw


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--digits", type=Path, default=Path("runs/digits"))
    parser.add_argument("--live", type=Path, metavar="MODEL")
    parser.add_argument("--pen", type=Path, default=Path("runs/pen"))
    parser.add_argument("--joint", type=Path, default=Path("runs/joint"))
    parser.add_argument("--spoken", type=Path, default=Path("runs/synthetic/data/test.jsonl"))
    given = parser.parse_args()
    given.live = given.live or given.digits / "streaming"
    if unknown := set(given.names) - set(PICTURES):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}: {', '.join(PICTURES)}")
    for name in given.names or PICTURES:
        try:
            PICTURES[name](given)
        except (CtcSpeechError, OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{name}: {error}")


def keep(name: str, content: bytes) -> None:
    if len(content) > LARGEST:
        sys.exit(f"{name}: {len(content)} bytes, more than {LARGEST}")
    with atomic_write(ASSETS / name, "wb") as file:
        file.write(content)
    print(f"{name}: {len(content)} bytes")


def keep_image(name: str, image: Image.Image, colors: int) -> None:
    """As a PNG of few colours."""
    file = io.BytesIO()
    image.convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    keep(f"{name}.png", file.getvalue())


def keep_figure(name: str, figure: Figure, dpi: int = 75, colors: int = 64) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    keep_image(name, Image.open(file), colors)


def ctcspeech_plot(name: str, *arguments: str | os.PathLike[str]) -> None:
    """What `ctcspeech plot` draws, made smaller."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        subprocess.run(
            [*COMMAND, "plot", *arguments, "--output", path], check=True, stdout=subprocess.DEVNULL
        )
        image = Image.open(path)
        image.thumbnail((860, 1200), Image.Resampling.LANCZOS)
        keep_image(name, image, 32)


def spoken(given: argparse.Namespace, count: int = 3, pause: float = 1.6) -> tuple[np.ndarray, int]:
    """So many recordings of the recipe's synthetic test, one after the other."""
    parts, rate = [], 8000
    for utterance in read_manifest(given.digits / "data" / "synthetic_test.jsonl")[1 : 1 + count]:
        samples, rate = audio.load(utterance.path)
        parts += [samples, quiet(int(pause * rate))]
    return np.concatenate(parts), rate


def quiet(count: int) -> np.ndarray:
    """A room in which nobody speaks: 60 dB below full scale."""
    return np.random.default_rng(0).normal(0, 1e-3, count).astype(np.float32)


@picture
def lattice(given: argparse.Namespace) -> None:
    keep_figure("lattice", plot_lattice(*example("cat")))


@picture
def heard(given: argparse.Namespace) -> None:
    """A recording, what the network made of it, and the alignment of its text in the trellis."""
    utterance = read_manifest(given.digits / "data" / "synthetic_test.jsonl")[1]
    model = ("--model", given.digits / "run", "--text-string", utterance.text)
    ctcspeech_plot("heard", utterance.path, *model)


@picture
def attention(given: argparse.Namespace) -> None:
    """A recording, its text's trellis, and where the attention decoder looks for each label."""
    chosen = min(read_manifest(given.spoken), key=lambda item: abs(len(item.text) - 28))
    model = ("--model", given.joint, "--text-string", chosen.text)
    ctcspeech_plot("attention", chosen.path, *model)


@picture
def curves(given: argparse.Namespace) -> None:
    figure = plot_training(given.digits / "run")
    figure.suptitle("runs/digits/run", fontsize="medium")
    keep_figure("curves", figure)


@picture
def augment(given: argparse.Namespace) -> None:
    """Spectrograms of one recording as it is and as training may hear it."""
    data = given.digits / "data"
    utterance = read_manifest(data / "synthetic_test.jsonl")[1]
    samples, rate = audio.load(utterance.path)
    noise = {"noise_folder": data / "noise", "noise_snr_db": (5.0, 5.0)}
    kinds = {
        "as it is": {},
        "speed": {"speed_probability": 1, "speed_range": (1.2, 1.2)},
        "pitch": {"pitch_probability": 1, "pitch_semitones": 5},
        "a room": {"rir_probability": 1, "rir_folder": data / "rir"},
        "noise": {"noise_probability": 1, **noise},
        "telephone": {"telephone_probability": 1},
    }
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).ravel()
    for panel, (name, values) in zip(panels, kinds.items(), strict=True):
        changed = Augmenter(AugmentConfig(**values), rate)(samples, 0, 0, "picture")
        panel.specgram(changed, NFFT=256, Fs=rate, noverlap=176, vmin=-120, vmax=-40, cmap="magma")
        panel.set_title(name, fontsize="medium")
        panel.set_xlim(0, 1.3 * len(samples) / rate)
    for panel in panels[3:]:
        panel.set_xlabel("time (s)")
    for panel in panels[::3]:
        panel.set_ylabel("frequency (Hz)")
    keep_figure("augment", figure, 72, 20)


@picture
def hands(given: argparse.Namespace) -> None:
    """One word in the pen recipe's synthesised hands, as points of even distance."""
    sys.path.insert(0, str(ROOT / "recipes" / "pen"))
    from hands import Hand, write

    figure = Figure(figsize=(11, 2.4), layout="constrained")
    for number, panel in enumerate(figure.subplots(2, 4).ravel()):
        ink = write("handwriting", Hand.of(number), number).normalized().resampled(0.1)
        for k, stroke in enumerate(ink.strokes):
            panel.plot(*stroke.T[:2], ".-", markersize=1.2, linewidth=0.6, color=f"C{k % 10}")
        panel.set_aspect("equal")
        panel.invert_yaxis()
        panel.set_axis_off()
    keep_figure("hands", figure, 80)


@picture
def ink(given: argparse.Namespace) -> None:
    """A word in a hand that is not in training, each point in the colour of its label."""
    utterance = read_manifest(given.pen / "data" / "test.jsonl")[0]
    path = utterance.path.with_suffix(".inkml")
    ctcspeech_plot("ink", path, "--model", given.pen / "run")


@picture
def listen(given: argparse.Namespace) -> None:
    """The terminal while the third line is spoken."""
    samples, rate = spoken(given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        soundfile.write(path, samples, rate)
        told = on_terminal([*COMMAND, "listen", str(given.live), str(path)])
    lines, current = [], []
    for step in told.split("\r\x1b[K")[1:]:
        if step.endswith("\n"):
            lines.append(step.strip())
        elif len(lines) == 2:
            current.append(step)
    if not current:
        sys.exit(f"listen: no words under way in the third line: {told!r}")
    shown = current[2 * len(current) // 3]  # well into the line
    stable, unstable = re.fullmatch(r"(.*)\x1b\[90m(.*)\x1b\[0m", shown).groups()
    keep(
        "listen.svg",
        terminal("ctcspeech listen runs/digits/streaming", lines[:2], stable, unstable),
    )


def on_terminal(command: list[str]) -> str:
    """What a command writes where its output is a terminal."""
    master, slave = os.openpty()
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL)
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 65536):
            parts.append(part)
    except OSError:  # so a terminal ends whose other side is closed
        pass
    os.close(master)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return b"".join(parts).decode().replace("\r\n", "\n")


def terminal(command: str, lines: list[str], stable: str, unstable: str) -> bytes:
    """A terminal's window as SVG; the last line has words that may still change, in grey."""
    font = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="15"'
    rows = [f'<tspan fill="#7ee787">$</tspan> {html.escape(command)}', *map(html.escape, lines)]
    rows.append(f'{html.escape(stable)}<tspan fill="#8b949e">{html.escape(unstable)}</tspan>▏')
    height = 44 + 24 * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" width="640">',
        f'<rect width="640" height="{height}" rx="8" fill="#161b22"/>',
        *(f'<circle cx="{20 + 18 * k}" cy="18" r="5" fill="#484f58"/>' for k in range(3)),
        f'<g {font} fill="#e6edf3" xml:space="preserve">',
        *(f'<text x="18" y="{54 + 24 * k}">{row}</text>' for k, row in enumerate(rows)),
        "</g></svg>\n",
    ]
    return "\n".join(parts).encode()


@picture
def page(given: argparse.Namespace) -> None:
    """The page of `ctcspeech serve` in a browser whose microphone hears synthetic speech."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    samples, rate = spoken(given)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        heard = Path(folder) / "microphone.wav"
        samples = np.concatenate([quiet(rate), samples, quiet(rate)])
        soundfile.write(heard, soxr.resample(samples, rate, 48000), 48000, "PCM_16")
        link = Path(folder) / "digits"
        link.symlink_to(given.live.resolve())
        server = subprocess.Popen([*COMMAND, "serve", link, "--port", str(port)])
        try:
            wait_for(f"http://127.0.0.1:{port}/ready")
            flags = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream"]
            flags += [f"--use-file-for-fake-audio-capture={heard}%noloop"]
            flags += [
                "--use-fake-ui-for-media-stream",
                "--autoplay-policy=no-user-gesture-required",
            ]
            with sync_playwright() as playwright:
                context = playwright.chromium.launch_persistent_context(
                    f"{folder}/profile", executable_path=chromium, headless=True, args=flags,
                    viewport={"width": 860, "height": 440},
                )  # fmt: skip
                view = context.new_page()
                view.goto(f"http://127.0.0.1:{port}/")
                view.wait_for_selector("#record:not([disabled])")
                view.keyboard.press("r")
                view.wait_for_selector("#lines li:nth-child(2)", timeout=60_000)
                view.wait_for_selector("#current span", timeout=60_000)
                view.wait_for_timeout(900)
                image = Image.open(io.BytesIO(view.screenshot()))
                context.close()
        finally:
            server.terminate()
            server.wait()
    keep_image("page", image, 64)


def wait_for(url: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


if __name__ == "__main__":
    main()
