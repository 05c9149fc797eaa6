"""The verbs transcribe and evaluate, on recordings whose text is known (tone_language.py)."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import textgrid
import torch
from tone_language import ALPHABET, RATE, say, tone_recognizer, write
from typer.testing import CliRunner

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.cli import app, main
from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model


@pytest.fixture
def run(monkeypatch):
    """Runs the command with the recogniser of tones in place of any model."""

    def load(model, device, threads):
        return tone_recognizer(threads=threads)

    monkeypatch.setattr("ctcspeech.cli.transcribe.load_recognizer", load)
    monkeypatch.setattr("ctcspeech.cli.evaluate.load_recognizer", load)

    def run(*arguments, **options):
        return CliRunner().invoke(app, [str(a) for a in arguments], **options)

    return run


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(6)
    for name, text in [("a.wav", "ab cd"), ("b.flac", "e"), ("sub/c.wav", "dd aa")]:
        write(tmp_path / "in" / name, say(text, generator))
    return tmp_path / "in"


def test_text_on_standard_output(run, folder):
    result = run("transcribe", "model", folder / "a.wav")
    assert result.exit_code == 0
    assert result.stdout == "ab cd\n"
    assert "real-time factor" in result.stderr
    result = run("transcribe", "model", folder)
    lines = [("a.wav", "ab cd"), ("b.flac", "e"), ("sub/c.wav", "dd aa")]
    assert result.stdout == "".join(f"{folder / name}\t{text}\n" for name, text in lines)
    assert run("transcribe", "model", folder, "--no-names").stdout == "ab cd\ne\ndd aa\n"
    assert run("transcribe", "model", folder / "b.flac", "--names").stdout.endswith("b.flac\te\n")


def test_json_lines(run, folder):
    result = run("transcribe", "model", folder / "*.wav", folder / "b.flac", "--format", "jsonl")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["text"] for line in lines] == ["ab cd", "e"]
    assert [word["word"] for word in lines[0]["words"]] == ["ab", "cd"]
    first, second = lines[0]["words"]
    assert 0 <= first["start"] < first["end"] < second["start"] < second["end"] < 1
    assert 0 < first["confidence"] <= 1
    assert lines[0]["audio_filepath"] == str(folder / "a.wav")
    assert lines[1]["duration"] == pytest.approx(0.12)


def test_a_bad_file_is_reported_and_the_rest_is_done(run, folder, tmp_path):
    (folder / "aa.wav").write_bytes(b"RIFF")
    result = run("transcribe", "model", folder, tmp_path / "missing.wav", "--no-names")
    assert result.exit_code == 1
    assert result.stdout == "ab cd\ne\ndd aa\n"
    assert "aa.wav" in result.stderr and "missing.wav" in result.stderr
    assert "2 of 5 recordings could not be transcribed" in result.stderr


def test_output_file_and_folder(run, folder, tmp_path):
    target = tmp_path / "new" / "all.txt"
    result = run("transcribe", "model", folder, "-o", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert len(target.read_text().splitlines()) == 3
    assert list(target.parent.iterdir()) == [target]

    out = tmp_path / "out"
    assert run("transcribe", "model", folder, "--output-dir", out).exit_code == 0
    written = {str(p.relative_to(out)): p.read_text() for p in out.rglob("*") if p.is_file()}
    assert written == {"a.txt": "ab cd\n", "b.txt": "e\n", "sub/c.txt": "dd aa\n"}
    both = run("transcribe", "model", folder / "a.wav", "--output-dir", out, "-o", target)
    assert both.exit_code == 2


def test_two_outputs_of_one_name_are_refused_before_anything_is_done(run, folder, tmp_path):
    write(folder / "a.flac", np.zeros(800, np.float32))
    result = run("transcribe", "model", folder, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert "a.flac" in result.stderr and "a.wav" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_was_done_is_kept_when_interrupted(run, folder, tmp_path, monkeypatch):
    from ctcspeech.recognize.recognizer import Recognizer

    whole = Recognizer.transcribe

    def interrupted(self, sources, *arguments, **options):
        for k, transcript in enumerate(whole(self, sources, *arguments, **options)):
            if k == 2:
                raise KeyboardInterrupt
            yield transcript

    monkeypatch.setattr(Recognizer, "transcribe", interrupted)
    target = tmp_path / "all.txt"
    result = run("transcribe", "model", folder, "-o", target, "--no-names")
    assert result.exit_code == 130
    assert not target.exists()
    assert (tmp_path / "all.txt.partial").read_text() == "ab cd\ne\n"
    assert "all.txt.partial" in result.stderr


def test_manifest_of_utterances(run, folder, tmp_path):
    utterances = [
        Utterance(folder / "a.wav", 0.5, "ab cd", id="x/1"),
        Utterance(folder / "b.flac", 0.1, "a", id="2"),
    ]
    write_manifest(tmp_path / "m.jsonl", utterances)
    out = tmp_path / "out"
    result = run("transcribe", "model", tmp_path / "m.jsonl", "--output-dir", out)
    assert result.exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == ["2.txt", "x_1.txt"]

    result = run(
        *("evaluate", "model", tmp_path / "m.jsonl"),
        *("-o", tmp_path / "each.jsonl", "--summary", tmp_path / "sum.json"),
    )
    assert result.exit_code == 0
    assert "WER 33.33%" in result.stdout and "REF: a\nHYP: e\n     S" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["x/1", "2"]
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert summary["wer"]["errors"] == 1 and summary["decoder"] == "greedy"

    utterances.append(Utterance(folder / "none.wav", 0.1, "a"))
    write_manifest(tmp_path / "m.jsonl", utterances)
    result = run("evaluate", "model", tmp_path / "m.jsonl", "--worst", "0")
    assert result.exit_code == 1
    assert "WER 33.33%" in result.stdout and "REF" not in result.stdout
    assert "none.wav" in result.stderr


def test_wrong_usage(run, folder):
    assert run("transcribe", "model").exit_code == 2
    assert run("transcribe", "model", "-", "--raw-rate", "0").exit_code == 2
    assert run("transcribe", "model", folder, "--format", "doc").exit_code == 2
    assert run("transcribe", "model", folder, "--threads", "0").exit_code == 2
    assert run("evaluate", "model").exit_code == 2


# -- the program itself, with a small untrained model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    config = DeepSpeech2Config(
        convolution="1d", channels=[8], time_width=[5], time_stride=[2], hidden=8, layers=1
    )
    features = FeatureExtractor(FeatureConfig(sample_rate=RATE, normalization="none"))
    model = build_model(config, 81, len(ALPHABET))
    path = tmp_path_factory.mktemp("model")
    save_checkpoint(path / "small", Checkpoint(model, features, ALPHABET))
    return path / "small"


def program(*arguments, **options):
    command = [sys.executable, "-m", "ctcspeech", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


def test_pipes(checkpoint, folder):
    path = folder / "a.wav"
    from_file = program("transcribe", checkpoint, path)
    assert from_file.returncode == 0 and b"Traceback" not in from_file.stderr
    wav = path.read_bytes()
    piped = program("transcribe", checkpoint, "-", input=wav)
    assert (piped.returncode, piped.stdout) == (0, from_file.stdout)
    raw = program("transcribe", checkpoint, "-", "--raw-rate", RATE, input=wav[44:])
    assert (raw.returncode, raw.stdout) == (0, from_file.stdout)


def test_mistakes_are_told(checkpoint, folder, tmp_path, monkeypatch, capsys):
    for arguments, code, words in [
        (("transcribe", tmp_path / "nomodel", folder), 1, "nomodel"),
        (("transcribe", checkpoint, tmp_path / "*.ogg"), 1, "no file matches"),
        (("transcribe", checkpoint, folder, "--device", "cuda:77"), 2, "--device cuda:77"),
        (("evaluate", checkpoint, tmp_path / "none.jsonl"), 1, "none.jsonl"),
    ]:
        monkeypatch.setattr("sys.argv", ["ctcspeech", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, told = capsys.readouterr()
        assert ended.value.code == code, told
        assert words in told and out == ""


def test_interrupt_ends_cleanly(checkpoint, folder, tmp_path):
    # Standard input stays open: the program waits for more of the recording when it is stopped.
    command = [sys.executable, "-m", "ctcspeech", "transcribe", str(checkpoint)]
    process = subprocess.Popen(
        [*command, str(folder), "-", "--raw-rate", str(RATE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts its background jobs with the signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    process.stdin.write(b"\0\0" * RATE * 70)  # enough for a first window
    process.stdin.flush()
    assert process.stdout is not None
    for name in ("a.wav", "b.flac", "sub/c.wav"):
        assert process.stdout.readline().startswith(str(folder / name).encode())
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert b"Traceback" not in told and b"Fatal" not in told
    assert rest == b""


def test_formats_of_other_tools(run, folder, tmp_path):
    recording = folder / "a.wav"
    srt = run("transcribe", "model", recording, "--format", "srt").stdout
    assert srt.startswith("1\n00:00:00,0") and srt.endswith("\nab cd\n")
    vtt = run("transcribe", "model", recording, "--format", "vtt", "--subtitle-characters", 2)
    assert vtt.stdout.startswith("WEBVTT\n") and vtt.stdout.endswith("\nab\ncd\n")
    ctm = run("transcribe", "model", folder, "--format", "ctm").stdout.splitlines()
    assert [(row.split()[0], row.split()[4]) for row in ctm] == [
        ("a", "ab"), ("a", "cd"), ("b", "e"), ("c", "dd"), ("c", "aa")
    ]  # fmt: skip
    tsv = run("transcribe", "model", folder, "--format", "tsv").stdout.splitlines()
    assert tsv[0].split("\t")[:4] == ["file", "start", "end", "word"] and len(tsv) == 6
    assert run("transcribe", "model", folder, "--format", "textgrid", "--output-dir", tmp_path)
    grid = textgrid.TextGrid.fromFile(str(tmp_path / "sub" / "c.TextGrid"))
    assert [interval.mark for interval in grid[0] if interval.mark] == ["dd", "aa"]
    assert (tmp_path / "b.TextGrid").exists()


def test_subtitles_of_several_recordings_need_a_folder(run, folder):
    result = run("transcribe", "model", folder, "--format", "srt")
    assert result.exit_code == 2
    assert "--output-dir" in result.stderr
    result = run("transcribe", "model", folder, "--subtitle-seconds", 8, 7)
    assert result.exit_code == 2


def test_calibrated_confidences_are_kept_with_the_model(run, folder, tmp_path, monkeypatch):
    import ctcspeech.cli.evaluate
    from ctcspeech.decode.confidence import load_calibrations

    def load(model, device, threads):
        recognizer = tone_recognizer(threads=threads)
        recognizer.calibrations = load_calibrations(model)
        return recognizer

    monkeypatch.setattr(ctcspeech.cli.evaluate, "load_recognizer", load)
    monkeypatch.setattr("ctcspeech.recognize.load.model_folder", lambda path: path)
    texts = {"a.wav": "ab cd", "b.flac": "a", "sub/c.wav": "dd bb"}  # two of five are wrong
    manifest = tmp_path / "dev.jsonl"
    write_manifest(manifest, [Utterance(folder / k, 0.5, text) for k, text in texts.items()])
    before = run("evaluate", tmp_path, manifest).stdout
    assert "60.0% are right; expected calibration error" in before
    result = run("evaluate", tmp_path, manifest, "--calibrate", "--summary", tmp_path / "s.json")
    assert "calibrated on 5 words" in result.stdout
    raw_error = json.loads((tmp_path / "s.json").read_text())["calibration_error"]
    assert run("evaluate", tmp_path, manifest, "--summary", tmp_path / "s.json").exit_code == 0
    error = json.loads((tmp_path / "s.json").read_text())["calibration_error"]
    assert error < 0.15 < raw_error
    # A second fit is on the raw confidences again: the same.
    fitted = load_calibrations(tmp_path)
    run("evaluate", tmp_path, manifest, "--calibrate")
    assert load_calibrations(tmp_path) == fitted and fitted["greedy"].words == 5
