"""A checkpoint with an attention decoder: all decodings from one model, by the command too; its CTC
branch and its export are those of the same model without the decoder."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tone_stream import tone_emitter
from tones import speak, write_corpus
from typer.testing import CliRunner

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.cli import app
from ctcspeech.decode.attention import AttentionRescorer, AttentionSearch
from ctcspeech.decode.fusion import WordFusion
from ctcspeech.errors import CtcSpeechError
from ctcspeech.evaluate.plot_attention import attention_map, plot_attention
from ctcspeech.exchange.export import onnx_model
from ctcspeech.live.recognizer import StreamingRecognizer
from ctcspeech.lm.model import LanguageModel
from ctcspeech.model.attention import AttentionConfig
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.text.alphabet import Alphabet

ALPHABET = Alphabet.from_text(["ab cd"])
VALUES = {
    "convolution": "1d", "channels": [16], "time_width": [5], "time_stride": [2], "layers": 1,
    "hidden": 8,
}  # fmt: skip


def checkpoint(attention):
    features = FeatureExtractor(
        FeatureConfig(sample_rate=8000, num_bins=20, energy=False, normalization="utterance")
    )
    head = AttentionConfig(hidden=12, embedding=6, size=8, width=5) if attention else None
    torch.manual_seed(1)
    config = DeepSpeech2Config(**VALUES, attention=head)
    model = build_model(config, features.num_features, len(ALPHABET)).eval()
    return Checkpoint(model, features, ALPHABET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(folder / "joint", checkpoint(True))
    save_checkpoint(folder / "plain", checkpoint(False))
    write_corpus(folder, "test", 3, 5)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_one_checkpoint_serves_all_decodings(folder):
    recognizer = Recognizer.load(folder / "joint", threads=1)
    head, shift = recognizer.emitter.attention, recognizer.frame_shift_ms
    decoders = [
        recognizer.greedy_decoder(),
        AttentionSearch(ALPHABET, shift, head, beam_size=3),
        AttentionSearch(ALPHABET, shift, head, ctc_weight=0.4, beam_size=3, n_best=2),
    ]
    for decoder in decoders:
        (transcript,) = recognizer.transcribe([folder / "test-000.wav"], decoder)
        (passage,) = transcript.passages
        assert passage.hypotheses[0].text == transcript.text
    # What the joint search says of its best text: both scores, computed apart.
    best = passage.hypotheses[0]
    assert len(passage.hypotheses) == 2
    samples = speak_of(folder / "test-000.wav")
    (rows,) = recognizer.emitter.with_states().compute([samples])
    (log_probs,) = recognizer.emitter.compute([samples])
    np.testing.assert_array_equal(rows[:, : len(ALPHABET)], log_probs)
    log_probs, states = rows[:, : len(ALPHABET)], rows[:, len(ALPHABET) :]
    attention = float(head.attend(states).read([best.tokens])[0].sum())
    ctc = -float(
        torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs).double()[:, None], torch.tensor([best.tokens]),
            [len(rows)], [len(best.tokens)], ALPHABET.blank, reduction="sum",
        )
    )  # fmt: skip
    assert best.attention_score == pytest.approx(attention, abs=1e-4)
    assert best.ctc_score == pytest.approx(ctc, abs=1e-3)
    assert best.score == pytest.approx(0.4 * ctc + 0.6 * attention, abs=1e-3)


def speak_of(path):
    from ctcspeech.audio.read import load

    return load(path, 8000)[0]


def test_ctc_is_the_same_with_and_without_the_decoder(folder):
    texts = []
    for name in ("joint", "plain"):
        recognizer = Recognizer.load(folder / name, threads=1)
        (transcript,) = recognizer.transcribe([folder / "test-000.wav"])
        texts.append(transcript.to_dict())
    assert texts[0] == texts[1]
    one, other = (onnx_model(checkpoint(attention), "waveform") for attention in (True, False))
    assert one.SerializeToString() == other.SerializeToString()


def test_long_recordings_are_cut_and_joined_with_their_states(folder):
    """A recording longer than the limit: its stretches' rows are those of the emissions."""
    samples = np.concatenate([speak("ab cd", i) for i in range(6)])
    recognizer = Recognizer.load(folder / "joint", threads=1)
    seen = {"rows": [], "emissions": []}

    class Keeps:
        def __init__(self, name, attends):
            self.name, self.attends = name, attends

        def decode(self, emissions):
            seen[self.name] += list(emissions)
            return [
                recognizer.greedy_decoder().decode([e[:, : len(ALPHABET)]])[0] for e in emissions
            ]

    import soundfile

    soundfile.write(folder / "long.wav", samples, 8000)
    for name, attends in (("emissions", False), ("rows", True)):
        list(recognizer.transcribe([folder / "long.wav"], Keeps(name, attends), max_seconds=1.5))
    assert len(seen["rows"]) == len(seen["emissions"]) >= 1
    # Cut: computed whole, the model would have said something else.
    (whole,) = recognizer.emitter.compute([samples.astype(np.float32)])
    assert len(seen["rows"]) > 1 or not np.allclose(seen["emissions"][0], whole, atol=1e-3)
    for rows, emissions in zip(seen["rows"], seen["emissions"], strict=True):
        np.testing.assert_allclose(rows[:, : len(ALPHABET)], emissions, atol=1e-5)
        assert rows.shape[1] == len(ALPHABET) + 8


@pytest.mark.parametrize(
    "options",
    [
        ["--decoder", "attention", "--length-normalization", "0.5", "--coverage", "0.1"],
        ["--decoder", "joint", "--ctc-weight", "0.5", "--beam-size", "4"],
        ["--decoder", "rescore", "--ctc-weight", "0.7"],
    ],
)
def test_the_command(folder, tmp_path, options):
    summary = tmp_path / "summary.json"
    code, output = run(
        "evaluate", folder / "joint", folder / "test.jsonl", "--summary", summary, *options
    )
    assert code == 0, output
    assert json.loads(summary.read_text())["utterances"] == 3
    lines = tmp_path / "all.jsonl"
    code, output = run(
        "transcribe", folder / "joint", folder / "test-000.wav", "--format", "jsonl", "--n-best",
        "2", "-o", lines, *options,
    )  # fmt: skip
    assert code == 0, output
    (passage,) = json.loads(lines.read_text())["passages"]
    assert all("attention_score" in item for item in passage["hypotheses"])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("plain", ["--decoder", "joint"], "the model has no attention decoder"),
        ("joint", ["--ctc-weight", "0.5"], "--ctc-weight has no effect with --decoder auto"),
        ("joint", ["--decoder", "attention", "--ctc-weight", "0.5"], "--ctc-weight has no effect"),
        ("joint", ["--decoder", "joint", "--word-score", "1"], "--word-score has no effect"),
        ("joint", ["--decoder", "rescore", "--coverage", "1"], "--coverage has no effect"),
        ("joint", ["--decoder", "joint", "--lm-weight", "1"], "without a language model"),
    ],
)
def test_options_without_effect(folder, model, options, message):
    code, output = run("transcribe", folder / model, folder / "test-000.wav", *options)
    assert code == 2
    assert message in " ".join(output.replace("│", " ").split())


WORDS = """\\data\\
ngram 1=5

\\1-grams:
-3\t<unk>
-99\t<s>
-1\t</s>
-0.5\tab
-0.7\tcda

\\end\\
"""


def test_a_language_model_takes_part(folder, tmp_path, decodings, monkeypatch, capsys):
    """By the command and by the table as by the search itself; only where an option asks for it."""
    lm = tmp_path / "lm.arpa"
    lm.write_text(WORDS)
    recognizer = Recognizer.load(folder / "joint", threads=1)
    fusion = WordFusion(ALPHABET, LanguageModel.load(lm), weight=0.8, word_score=0.5)
    search = AttentionSearch(
        ALPHABET, recognizer.frame_shift_ms, recognizer.emitter.attention,
        ctc_weight=0.4, beam_size=6, fusion=fusion,
    )  # fmt: skip
    (wanted,) = recognizer.transcribe([folder / "test-000.wav"], search)
    assert wanted.text and set(wanted.text.split()) <= {"ab", "cda"}
    out = tmp_path / "out.jsonl"
    base = ["transcribe", folder / "joint", folder / "test-000.wav", "--format", "jsonl", "-o", out]
    options = ["--decoder", "joint", "--ctc-weight", "0.4", "--beam-size", "6"]
    code, output = run(
        *base, *options, "--lm", lm, "--lm-weight", "0.8", "--word-score", "0.5", "--n-best", "2",
        "--threads", "1",
    )  # fmt: skip
    assert code == 0, output
    found = json.loads(out.read_text())
    assert found["text"] == wanted.text
    (passage,) = found["passages"]
    score = wanted.passages[0].hypotheses[0].lm_score
    assert passage["hypotheses"][0]["lm_score"] == pytest.approx(score, abs=1e-3)
    arguments = [str(folder / "joint"), str(folder / "test.jsonl"), "--lm", str(lm)]
    named = "joint:ctc_weight=0.4:beam_size=6:lm_weight=0.8:word_score=0.5"
    monkeypatch.setattr(sys, "argv", ["decodings.py", *arguments, named])
    decodings.main()
    row = capsys.readouterr().out.splitlines()[2].split(" | ")
    code, output = run(
        "evaluate", *arguments, *options, "--lm-weight", "0.8", "--word-score", "0.5",
        "--threads", "1", "--worst", "0",
    )  # fmt: skip
    assert code == 0 and f"WER {row[1]}" in output


def test_the_attention_is_drawn(folder, tmp_path):
    emitter = Recognizer.load(folder / "joint", threads=1).emitter
    samples = speak_of(folder / "test-000.wav")
    weights = attention_map(emitter, samples, "ab cd", start=2.0)
    assert weights.names == [*"ab cd", "⏎"]
    np.testing.assert_allclose(weights.weights.sum(axis=1), 1.0, atol=1e-5)
    (rows,) = emitter.with_states().compute([samples])
    assert weights.weights.shape == (6, len(rows))
    assert weights.times == (2.0, pytest.approx(2.0 + len(rows) * 0.02))
    figure = plot_attention(weights, ["x"] * len(rows), "ab $")
    (image,) = figure.axes[0].get_images()
    np.testing.assert_allclose(image.get_array(), weights.weights)
    with pytest.raises(ValueError, match="must name the"):
        plot_attention(weights, ["x"])
    out = tmp_path / "heard.png"
    for more in ([], ["--text-string", "ab cd"]):
        code, output = run(
            "plot", folder / "test-000.wav", "--model", folder / "joint", "-o", out, *more
        )
        assert code == 0, output
        assert out.stat().st_size > 10_000
        out.unlink()
    with pytest.raises(CtcSpeechError, match="no attention decoder"):
        attention_map(Recognizer.load(folder / "plain", threads=1).emitter, samples)


def test_rescoring_uses_the_models_states(folder):
    recognizer = Recognizer.load(folder / "joint", threads=1)
    from ctcspeech.decode.beam import BeamDecoder

    beam = BeamDecoder(ALPHABET, n_best=5, frame_shift_ms=recognizer.frame_shift_ms)
    rescorer = AttentionRescorer(beam, recognizer.emitter.attention, ctc_weight=0.5, n_best=5)
    (transcript,) = recognizer.transcribe([folder / "test-000.wav"], rescorer)
    found = transcript.passages[0].hypotheses
    scores = [item.score for item in found]
    assert len(found) > 1 and scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        ["--decoder", "attention", "--length-normalization", "0.5"],
        ["--decoder", "joint", "--ctc-weight", "0.6", "--beam-size", "3"],
        ["--decoder", "rescore", "--ctc-weight", "0.4"],
    ],
)
def test_bulk_gives_what_transcribe_gives(folder, tmp_path, options):
    files = sorted(folder.glob("test-*.wav"))
    whole = tmp_path / "whole.jsonl"
    more = ["--format", "jsonl", "--n-best", "2", "--threads", "1", "-o", whole]
    code, output = run("transcribe", folder / "joint", *files, *more, *options)
    assert code == 0, output
    out = tmp_path / "out"
    base = ["bulk", folder / "joint", *files, "-o", out, "--workers", "0", "--n-best", "2"]
    code, output = run(*base, *options)
    assert code == 0, output
    wanted = sorted(heard(line) for line in whole.read_text().splitlines())
    (results,) = out.glob("run-*/results")
    got = [line for file in results.iterdir() for line in file.read_text().splitlines()]
    assert sorted(map(heard, got)) == wanted and len(wanted) == 3
    # Another weight is another job: what is done by the first is not taken for its results.
    place = 3 if options[2] != "--beam-size" else 5
    code, output = run(*base, *options[:place], "0.9", *options[place + 1 :])
    assert code == 0, output
    assert len(list(out.glob("run-*"))) == 2


def heard(line):
    """What a record says, without the name under which the recording was given."""
    record = json.loads(line)
    return json.dumps([record["text"], record["passages"]], sort_keys=True)


def test_bulk_refuses_what_the_model_cannot(folder, tmp_path):
    file = folder / "test-000.wav"
    base = ["bulk", folder / "plain", file, "-o", tmp_path / "out", "--workers", "0"]
    result = CliRunner().invoke(app, list(map(str, [*base, "--decoder", "joint"])))
    assert result.exit_code == 1
    assert "the model has no attention decoder" in f"{result.output}{result.exception}"
    result = CliRunner().invoke(app, list(map(str, [*base, "--ctc-weight", "0.5"])))
    assert result.exit_code != 0
    assert "--ctc-weight has no effect" in f"{result.output}{result.exception}"


@pytest.fixture
def decodings(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "recipes"))
    import decodings

    yield decodings
    sys.modules.pop("decodings", None)


def test_the_table_of_all_decodings(decodings, folder, monkeypatch, capsys):
    """The rows say what `ctcspeech evaluate` says."""
    chosen = ["greedy", "beam", "joint:ctc_weight=0.5:beam_size=4", "rescore:ctc_weight=0.7"]
    arguments = [str(folder / "joint"), str(folder / "test.jsonl")]
    monkeypatch.setattr(sys, "argv", ["decodings.py", *arguments, *chosen])
    decodings.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == chosen
    _, output = run(
        "evaluate", *arguments, "--decoder", "joint", "--ctc-weight", "0.5", "--beam-size", "4",
        "--threads", "1", "--worst", "0",
    )  # fmt: skip
    assert f"WER {rows[2][1]}" in output and f"CER {rows[2][3]}" in output
    for wrong, message in (
        ("joint:lm=1", "joint has no setting lm"),
        ("beam:beam_size=1", "beam has no setting beam_size; it has: none"),
        ("forward", "the decodings are greedy, beam"),
        ("joint:ctc_weight=2", "ctc_weight must be 0 to 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["decodings.py", *arguments, wrong])
        with pytest.raises(SystemExit):
            decodings.main()
        assert message in " ".join(capsys.readouterr().err.split())


HEAD = AttentionConfig(hidden=6, embedding=4, size=5, width=5)


def test_live_recognition_is_by_the_ctc_branch():
    samples = speech_of_tones()
    found = []
    for emitter in (tone_emitter(), tone_emitter(attention=HEAD)):
        stream = StreamingRecognizer(emitter).stream()
        results = [*stream.accept(samples[:3000]), *stream.accept(samples[3000:]), *stream.finish()]
        found.append([(item.text, item.final, item.words) for item in results])
    assert found[0] == found[1]
    assert " ".join(text for text, final, _ in found[1] if final) == "ab cde e"


def speech_of_tones():
    from tone_language import hush, say

    random = np.random.default_rng(3)
    return np.concatenate([say("ab cde e", random), hush(0.5, random)])


def test_a_server_takes_a_checkpoint_with_a_decoder():
    pytest.importorskip("uvicorn")
    import httpx
    from serving import TEXT, serving, spoken, wav

    with serving(Recognizer(tone_emitter(attention=HEAD), threads=1)) as server:
        answer = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            data={"model": "tones"}, files={"file": ("a.wav", wav(spoken()))},
        )  # fmt: skip
    assert answer.json()["text"] == TEXT
