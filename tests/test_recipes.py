"""The recipes' own code: synthesis, strings of digits, splits, and what they answer to mistakes."""

import http.server
import importlib
import os
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ctcspeech import read_manifest

RECIPES = Path(__file__).parents[1] / "recipes"
MODULES = (
    "acoustics",
    "espeak",
    "fetch",
    "flite",
    "prepare",
    "strings",
    "synthesize",
    "voices",
)


@pytest.fixture
def recipe(monkeypatch):
    """Imports a module of a recipe's folder, as its scripts do; forgets it afterwards."""

    def load(folder: str, module: str):
        monkeypatch.syspath_prepend(str(RECIPES))
        monkeypatch.syspath_prepend(str(RECIPES / folder))
        for name in MODULES:
            monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(module)

    yield load
    for name in MODULES:
        sys.modules.pop(name, None)


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash"] if script.endswith(".sh") else [sys.executable]
    paths = os.pathsep.join([str(RECIPES.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, str(RECIPES / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


def tone(seconds: float, level: float = 0.5, rate: int = 8000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


# ------------------------------------------------------------------------------------- espeak-ng


def test_espeak_speaks_longer_texts_longer_and_faster_rates_faster(recipe):
    espeak = recipe("digits", "espeak").Espeak()
    assert espeak.sample_rate == 22050
    one, three = espeak.say("nine"), espeak.say("nine nine nine")
    assert one.dtype == np.float32 and 0.1 < np.abs(one).max() <= 1
    assert 0.2 < len(one) / espeak.sample_rate < 1.5 and len(three) > 1.5 * len(one)
    assert len(espeak.say("nine nine nine", rate=300)) < 0.8 * len(three)
    assert len(espeak.say("nine")) == pytest.approx(len(one), rel=0.02)

    def pitch(samples: np.ndarray) -> float:  # Hz, by the highest peak of the autocorrelation
        middle = samples[len(samples) // 4 : len(samples) // 4 + 4096]
        correlation = np.correlate(middle, middle, "full")[len(middle) :]
        return espeak.sample_rate / (80 + correlation[79:350].argmax())

    assert pitch(espeak.say("nine", pitch=90)) > 1.3 * pitch(espeak.say("nine", pitch=10))


def test_espeak_names_an_unknown_voice(recipe):
    with pytest.raises(ValueError, match="no voice 'xx-none'"):
        recipe("digits", "espeak").Espeak().say("one", voice="xx-none")


def test_every_accent_of_the_digits_recipe_exists(recipe):
    espeak, voices = recipe("digits", "espeak").Espeak(), recipe("digits", "voices")
    assert all(len(words) == 10 for words in voices.FOREIGN.values())
    assert set(voices.TEST_VARIANTS) < set(voices.VARIANTS)
    for accent in (*voices.ENGLISH, *voices.FOREIGN):
        said = [espeak.say(voices.spelling(digit, accent), voice=accent) for digit in range(10)]
        seconds = np.array([len(samples) for samples in said]) / espeak.sample_rate
        assert ((seconds > 0.1) & (seconds < 1.5)).all(), (accent, seconds)


def test_every_variant_of_the_digits_recipe_is_a_voice_of_its_own(recipe):
    espeak, voices = recipe("digits", "espeak").Espeak(), recipe("digits", "voices")
    # An unknown variant is passed over in silence: it would sound like the plain voice.
    plain = espeak.say("nine", voice="en-us")
    for variant in voices.VARIANTS:
        said = espeak.say("nine", voice=f"en-us+{variant}")
        assert len(said) > 1000 and not np.array_equal(said, plain), variant


def test_a_spoken_string_is_as_long_as_its_digits_and_follows_from_its_seed(recipe):
    synthesize = recipe("digits", "synthesize")
    speaker = synthesize.Speaker()
    seen = Counter()
    for seed in range(40):
        spoken = synthesize.speak(speaker, np.random.default_rng(seed))
        seconds = len(spoken.samples) / 8000
        assert 0.1 * len(spoken.digits) < seconds < 1.7 * len(spoken.digits) + 1
        assert spoken.text.split() == [synthesize.DIGITS[digit] for digit in spoken.digits]
        assert spoken.speaker.partition("+")[2] not in synthesize.TEST_VARIANTS
        assert np.abs(spoken.samples).max() <= 1
        seen[len(spoken.digits)] += 1
    assert set(seen) == {1, 2, 3, 4, 5, 6, 7}
    again = synthesize.speak(speaker, np.random.default_rng(39))
    assert (again.text, again.speaker) == (spoken.text, spoken.speaker)
    assert len(again.samples) == pytest.approx(len(spoken.samples), rel=0.02)
    tested = synthesize.speak(speaker, np.random.default_rng(1), test=True)
    assert tested.speaker.partition("+")[2] in synthesize.TEST_VARIANTS


def test_flite_where_it_is_installed_speaks_half_of_training_and_none_of_the_test(recipe):
    synthesize = recipe("digits", "synthesize")
    asked = []

    class Reader:
        def say(self, text, *, voice, stretch):
            asked.append((text, voice))
            return np.sin(np.arange(round(16000 * 0.4 * stretch), dtype=np.float32)), 16000

    speaker = synthesize.Speaker(["slt", "rms"])
    speaker.flite = Reader()
    spoken = [synthesize.speak(speaker, np.random.default_rng(seed)) for seed in range(60)]
    by_flite = [each for each in spoken if each.speaker.startswith("flite:")]
    assert 15 < len(by_flite) < 45
    assert {voice for _, voice in asked} == {"slt", "rms"}
    words = {word for text, _ in asked for word in text.replace(",", "").split()}
    assert words == set(synthesize.DIGITS)  # English spelling, whatever the accent drawn
    tested = [synthesize.speak(speaker, np.random.default_rng(s), test=True) for s in range(10)]
    assert not any(each.speaker.startswith("flite:") for each in tested)


def test_noises_and_rooms(recipe, tmp_path):
    acoustics = recipe("digits", "acoustics")
    acoustics.write_noises(tmp_path / "noise", seconds=2.0)
    acoustics.write_rooms(tmp_path / "rir", count=3)
    white, rate = soundfile.read(tmp_path / "noise" / "power0.0.wav")
    brown, _ = soundfile.read(tmp_path / "noise" / "power2.0.wav")
    assert rate == 8000 and len(white) == 16000

    def high(samples: np.ndarray) -> float:  # share of the energy above 2 kHz
        power = np.abs(np.fft.rfft(samples)) ** 2
        return float(power[len(power) // 2 :].sum() / power.sum())

    assert 0.4 < high(white) < 0.6 and high(brown) < 0.01
    for path in (tmp_path / "rir").iterdir():
        room, _ = soundfile.read(path)
        assert room.argmax() == 0
        half = len(room) // 2
        assert np.square(room[half:]).sum() < 0.01 * np.square(room[:half]).sum()


# ---------------------------------------------------------------------------------------- strings


def test_trim_keeps_what_is_loud(recipe):
    trim = recipe("digits", "strings").trim
    padded = np.concatenate([np.zeros(4000, np.float32), tone(0.3), np.zeros(2400, np.float32)])
    assert 2400 <= len(trim(padded, 8000)) <= 2400 + 4 * 160
    assert len(trim(np.zeros(50, np.float32), 8000)) == 50


def test_a_string_holds_its_digits_in_order(recipe):
    strings = recipe("digits", "strings")
    # Digit d is a tone of level (d + 1) / 20: its level tells which it is.
    digits = {d: [tone(0.2, (d + 1) / 20), tone(0.25, (d + 1) / 20)] for d in range(10)}
    lengths = Counter()
    for seed in range(60):
        samples, chosen = strings.string_of(digits, np.random.default_rng(seed))
        lengths[len(chosen)] += 1
        found, rest = [], np.abs(samples)
        for digit in chosen:
            level = (digit + 1) / 20
            # the next stretch of 0.15 s whose peak is this digit's level
            windows = np.lib.stride_tricks.sliding_window_view(rest, 1200)[::80].max(1)
            places = np.flatnonzero(np.abs(windows - level) < 0.01)
            assert len(places), (seed, digit)
            found.append(digit)
            rest = rest[places[0] * 80 + 1600 :]
        assert tuple(found) == chosen
        spoken = 0.2 * len(chosen)
        assert spoken <= len(samples) / 8000 <= 0.25 * len(chosen) + 0.4 * (len(chosen) + 1)
    assert set(lengths) == {3, 4, 5, 6, 7}


def test_strings_of_no_digit_are_refused(recipe):
    with pytest.raises(ValueError, match="shortest must be 1 to longest"):
        recipe("digits", "strings").string_of({}, np.random.default_rng(0), 0, 3)


# ----------------------------------------------------------------------------------- digits, whole


def fsdd(folder: Path, speakers=("ann", "bob", "cem"), count: int = 10) -> Path:
    """A corpus named like the Free Spoken Digit Dataset, of tones."""
    (folder / "fsdd").mkdir(parents=True)
    for speaker in speakers:
        for digit in range(10):
            for index in range(count):
                path = folder / "fsdd" / f"{digit}_{speaker}_{index}.wav"
                soundfile.write(path, tone(0.2 + 0.01 * index), 8000)
    return folder


def names(manifest: Path) -> list[str]:
    return [Path(utterance.path).stem for utterance in read_manifest(manifest)]


def test_prepare_digits_with_recordings(recipe, tmp_path):
    data = fsdd(tmp_path / "data")
    done = run(
        "digits/prepare.py", tmp_path / "out", "--data", data, "--synthetic", 40, "--strings", 30
    )
    assert done.returncode == 0, done.stderr
    test = names(tmp_path / "out" / "test.jsonl")
    assert len(test) == 150 and all(int(name.split("_")[2]) < 5 for name in test)
    train = names(tmp_path / "out" / "train.jsonl")
    assert len(train) == 38 + 60 + 30  # synthetic, singles (indices 8 and 9), strings
    assert not set(test) & set(train)
    dev = [name for name in names(tmp_path / "out" / "dev.jsonl") if "_" in name]
    assert sorted({int(name.split("_")[2]) for name in dev}) == [5, 6, 7]
    strings = read_manifest(tmp_path / "out" / "test_strings.jsonl")
    assert len(strings) == 250 and {len(u.text.split()) for u in strings} == {3, 4, 5, 6, 7}
    for utterance in strings[:5]:
        assert utterance.speaker in ("ann", "bob", "cem")
        samples, rate = soundfile.read(utterance.path)
        assert rate == 8000 and len(samples) / rate == pytest.approx(utterance.duration, abs=1e-3)
    unseen = read_manifest(tmp_path / "out" / "synthetic_test.jsonl")
    voices = recipe("digits", "voices")
    assert {u.speaker.partition("+")[2] for u in unseen} == set(voices.TEST_VARIANTS)
    assert len(list((tmp_path / "out" / "rir").iterdir())) > 10


def test_prepare_digits_divides_by_speaker(recipe, tmp_path):
    prepare = recipe("digits", "prepare")
    real = prepare.read_fsdd(fsdd(tmp_path))
    parts = prepare.divide(real, "bob")
    assert {u.speaker for u in parts["test"]} == {"bob"} and len(parts["test"]) == 100
    assert {u.speaker for u in parts["train"] + parts["dev"]} == {"ann", "cem"}
    with pytest.raises(SystemExit, match="must be one of ann, bob, cem, got zoe"):
        prepare.divide(real, "zoe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "there is no folder /nowhere/fsdd"),
        (["--synthetic", "0"], "--synthetic must be at least 20"),
        (["--data", "/nowhere", "--download"], "not both"),
    ],
)
def test_prepare_digits_refuses_wrong_arguments(recipe, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        recipe("digits", "prepare").parse_arguments(["work", *arguments])
    assert exit.value.code == 2 and message in capsys.readouterr().err


@pytest.fixture
def server(tmp_path):
    """A web server of `tmp_path`/served that knows byte ranges: its address, what was asked."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                return self.send_error(404)
            content, start = path.read_bytes(), 0
            if wanted := self.headers.get("Range"):
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_fetch_goes_on_where_it_broke_off(recipe, server, tmp_path):
    folder, address, asked = server
    fetch = recipe("digits", "fetch").fetch
    content = bytes(range(256)) * 5000
    (folder / "corpus.bin").write_bytes(content)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "corpus.bin.part").write_bytes(content[:70_000])
    for _ in range(2):  # the second time it is there
        assert fetch(f"{address}/corpus.bin", tmp_path / "to").read_bytes() == content
    assert asked == [("/corpus.bin", "bytes=70000-")]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["corpus.bin"]
    with pytest.raises(SystemExit, match="cannot fetch .*none.bin: HTTP Error 404"):
        fetch(f"{address}/none.bin", tmp_path / "to")


def test_digits_are_downloaded_once(recipe, server, tmp_path, monkeypatch):
    folder, address, asked = server
    with zipfile.ZipFile(folder / "v1.zip", "w") as archive:
        for path in sorted(fsdd(tmp_path).rglob("*.wav")):
            archive.write(path, f"fsdd-1/recordings/{path.name}")
    prepare = recipe("digits", "prepare")
    monkeypatch.setattr(prepare, "FSDD_URL", f"{address}/v1.zip")
    for _ in range(2):
        assert len(prepare.read_fsdd(prepare.download(tmp_path / "to"))) == 300
    assert len(asked) == 1
    (folder / "v2.zip").write_bytes(b"no archive at all")
    monkeypatch.setattr(prepare, "FSDD_URL", f"{address}/v2.zip")
    with pytest.raises(SystemExit, match="v2.zip is damaged .* delete it"):
        prepare.download(tmp_path / "other")


def test_run_digits_refuses_unknown_options():
    done = run("digits/run.sh", "--quick")
    assert done.returncode == 2 and "--quick is no option" in done.stderr


@pytest.mark.parametrize("name", sorted(str(p.relative_to(RECIPES)) for p in RECIPES.rglob("*.sh")))
def test_scripts_are_valid(name):
    assert subprocess.run(["bash", "-n", RECIPES / name]).returncode == 0


@pytest.mark.parametrize(
    "name", sorted(str(p.relative_to(RECIPES)) for p in RECIPES.rglob("*.toml"))
)
def test_configurations_are_valid(name):
    from ctcspeech import load_config

    config = load_config(RECIPES / name)
    assert config.train.epochs > 1 and config.data.validation


# -------------------------------------------------------------------------------------------- an4


def test_prepare_an4_sets_speakers_aside(recipe):
    from ctcspeech import Utterance

    set_aside = recipe("an4", "prepare").set_aside
    train = [Utterance(Path(f"{k}.wav"), 1.0, "a", speaker=f"s{k % 7}") for k in range(70)]
    kept, aside = set_aside(train, 2)
    assert len(kept) == 50 and len(aside) == 20
    assert not {u.speaker for u in kept} & {u.speaker for u in aside}
    with pytest.raises(ValueError, match="speakers must be 1 to 6, got 7"):
        set_aside(train, 7)


@pytest.mark.data
def test_prepare_an4_has_the_standard_split(data_folder, tmp_path):
    done = run("an4/prepare.py", tmp_path, "--mfcc", data_folder / "an4_mfcc")
    assert done.returncode == 0, done.stderr
    parts = {name: read_manifest(tmp_path / f"{name}.jsonl") for name in ("train", "dev", "test")}
    assert len(parts["train"]) + len(parts["dev"]) == 948 and len(parts["test"]) == 130
    assert sum(len(utterance.text.split()) for utterance in parts["test"]) == 773
    assert not {u.speaker for u in parts["train"]} & {u.speaker for u in parts["dev"]}


@pytest.mark.data
def test_the_real_digits_are_divided_as_published(recipe, data_folder):
    prepare = recipe("digits", "prepare")
    parts = prepare.divide(prepare.read_fsdd(data_folder / "fsdd"), None)
    published = {u.path.name for u in read_manifest(data_folder / "fsdd" / "test.jsonl")}
    assert {u.path.name for u in parts["test"]} == published
    assert len(parts["train"]) + len(parts["dev"]) == 2250
