"""Alignment of texts with recordings whose times are known by construction (tone_language.py)."""

import json

import numpy as np
import pytest
import soundfile
from tone_language import ALPHABET, RATE, hush, say, tone_recognizer, words, write
from typer.testing import CliRunner

from ctcspeech.align.known_text import align_text
from ctcspeech.align.split import SplitLimits, sentences, split_text, worst_window
from ctcspeech.cli import app
from ctcspeech.data.manifest import Utterance, read_manifest, write_manifest
from ctcspeech.emissions import Emissions
from ctcspeech.errors import AlignmentError
from ctcspeech.text.alphabet import Alphabet
from ctcspeech.text.normalize import Normalizer


@pytest.fixture
def generator():
    return np.random.default_rng(5)


def concatenated(texts, generator, pause=(0.3, 0.8), first=0.5):
    """Samples, and for each text the seconds from its first letter to its last."""
    parts, times, now = [hush(first, generator)], [], first
    for text in texts:
        samples = say(text + " ", generator)
        times.append((now + 0.02, now + len(samples) / RATE - 0.14))  # the space and two gaps
        silence = hush(generator.uniform(*pause), generator)
        parts += [samples, silence]
        now += (len(samples) + len(silence)) / RATE
    return np.concatenate(parts), times


def emissions_of(path, recognizer=None, **options):
    ((transcript, emissions),) = (recognizer or tone_recognizer()).recording_emissions(
        [path], **options
    )
    assert transcript.error is None
    return transcript, emissions


def spoken_lines(count, generator):
    return [" ".join(words(int(generator.integers(3, 9)), generator)) for _ in range(count)]


@pytest.mark.parametrize("max_seconds", [5.0, 9.0])
def test_emissions_of_cut_recordings_are_those_of_the_whole(tmp_path, generator, max_seconds):
    samples, _ = concatenated(spoken_lines(8, generator), generator, pause=(0.0, 0.5))
    path = write(tmp_path / "a.wav", samples)
    recognizer = tone_recognizer()
    transcript, cut = emissions_of(path, recognizer, max_seconds=max_seconds)
    (whole,) = recognizer.emissions([soundfile.read(path, dtype="float32")[0]])
    assert abs(len(cut) - len(whole)) <= 1
    assert transcript.duration == pytest.approx(len(samples) / RATE)
    length = min(len(cut), len(whole))
    same = cut.scores[:length].argmax(1) == whole[:length].argmax(1)
    assert same.mean() > 0.995  # a frame at a cut may hear the silence of the padding


def test_word_times_are_where_the_words_were_put(tmp_path, generator):
    lines = spoken_lines(6, generator)
    samples, times = concatenated(lines, generator)
    _, emissions = emissions_of(write(tmp_path / "a.wav", samples), max_seconds=6)
    aligned = align_text(emissions, lines, ALPHABET)
    assert [word.text for word in aligned.words] == " ".join(lines).split()
    for (first, last), (start, end) in zip(aligned.lines, times, strict=True):
        assert aligned.words[first].start == pytest.approx(start, abs=0.04)
        assert aligned.words[last - 1].end == pytest.approx(end, abs=0.04)
    assert all(word.confidence > 0.5 for word in aligned.words)
    assert aligned.log_prob > -0.5


def test_words_keep_their_spelling_and_unknown_ones_become_wildcards(tmp_path, generator):
    samples = say("ab cde dd a", generator)
    _, emissions = emissions_of(write(tmp_path / "a.wav", samples))
    aligned = align_text(emissions, "“Ab, CDE — Xy5 a.”", ALPHABET, Normalizer())
    assert [word.text for word in aligned.words] == ["“Ab,", "CDE", "Xy5", "a.”"]
    assert aligned.normalized == ["ab", "cde", "", "a"]
    assert list(aligned.unknown) == [2] and "x y 5" in aligned.unknown[2]
    assert aligned.words[2].confidence is None
    # The wildcard got the place of "dd": after "ab cde ", whose letters are at 100 ms each.
    assert 0.65 < aligned.words[2].start < aligned.words[2].end < 1.05
    assert aligned.words[3].start == pytest.approx(0.02 + 10 * 0.1, abs=0.04)


def test_without_a_normalizer_letters_take_the_case_of_the_alphabet():
    labels = ["-", "|", "A", "B", "'"]
    alphabet = Alphabet(labels, separator="|")
    scores = np.full((7, 5), -8.0, np.float32)
    for frame, label in enumerate([2, 0, 3, 1, 2, 4, 3]):
        scores[frame, label] = 8.0
    emissions = Emissions(scores, labels, 0, 20.0, start=1.0)
    alone = align_text(emissions, "ab, a'b!")
    assert alone.words == align_text(emissions, "ab, a'b!", alphabet).words
    aligned = align_text(emissions, "ab, a'b!", alphabet)
    assert aligned.normalized == ["AB", "A'B"]
    assert [(word.start, word.end) for word in aligned.words] == [
        (pytest.approx(1.0), pytest.approx(1.06)),
        (pytest.approx(1.08), pytest.approx(1.14)),
    ]


def test_what_cannot_be_aligned_is_told():
    labels = list(ALPHABET.labels)
    emissions = Emissions(np.zeros((4, len(labels)), np.float32), labels, 0, 20.0)
    with pytest.raises(AlignmentError, match="no text"):
        align_text(emissions, " ... ", ALPHABET)
    with pytest.raises(AlignmentError, match="no word of the text can be written"):
        align_text(emissions, "xyz", ALPHABET)
    with pytest.raises(AlignmentError, match="at least 5 frames, the recording has 4"):
        align_text(emissions, "abcde", ALPHABET)
    with pytest.raises(ValueError, match="skip must be one of"):
        align_text(emissions, "a", ALPHABET, skip="some")


def test_sentences():
    text = "He said: “Go!” Dr. B. Smith went. Really?! Yes…\n\nA title\n\nThe end"
    assert sentences(text) == [
        "He said: “Go!”", "Dr. B. Smith went.", "Really?!", "Yes…", "A title", "The end"
    ]  # fmt: skip
    assert sentences("你好。我们走！") == ["你好。", "我们走！"]
    assert sentences("  ") == []


def test_worst_window():
    values = [-1.0, -5.0, -3.0, 0.0, 0.0]
    assert worst_window(values, 2) == -4.0
    assert worst_window(values, 50) == pytest.approx(-1.8)
    assert worst_window(values, 1) == -5.0


def test_split_finds_the_utterances_and_drops_the_bad_pairs(tmp_path, generator):
    lines = spoken_lines(8, generator)
    samples, times = concatenated(lines, generator)
    # Untranscribed speech at both ends, and a line whose text is another one.
    stranger = say("eee dcb eae bcd", generator)
    head = len(stranger) / RATE + 0.4
    samples = np.concatenate([stranger, hush(0.4, generator), samples, stranger])
    texts = list(lines)
    texts[3] = "cab ddd eb ebb"
    path = write(tmp_path / "long.flac", samples)
    transcript, emissions = emissions_of(path, max_seconds=8)
    aligned = align_text(emissions, texts, ALPHABET, skip="ends")
    pieces = split_text(aligned, transcript.duration, SplitLimits(padding=0.2))
    assert [piece.line for piece in pieces] == list(range(8))
    assert [piece.line for piece in pieces if piece.dropped] == [3]
    assert pieces[3].dropped.startswith("score")
    for k in (0, 1, 4, 5, 6, 7):  # not beside the wrong one, whose place nothing fixes
        start, end = times[k]
        assert pieces[k].start == pytest.approx(start + head - 0.2, abs=0.06)
        assert pieces[k].end == pytest.approx(end + head + 0.2, abs=0.06)
    for before, after in zip(pieces, pieces[1:], strict=False):
        assert before.end <= after.start + 1e-9


def test_speech_between_lines_is_skipped(tmp_path, generator):
    said = ["abc de ab", "eee dcb eae bcd aaa", "dad cab be"]
    samples, times = concatenated(said, generator)
    transcript, emissions = emissions_of(write(tmp_path / "a.wav", samples))
    aligned = align_text(emissions, [said[0], said[2]], ALPHABET, skip="lines")
    first, second = split_text(aligned, transcript.duration)
    assert first.end == pytest.approx(times[0][1] + 0.15, abs=0.1)
    assert second.start == pytest.approx(times[2][0] - 0.25, abs=0.1)
    assert not first.dropped and not second.dropped


def test_long_utterances_are_divided_at_pauses(tmp_path, generator):
    said = ["abc de ab", "dad cab be", "ab ab ab"]
    samples, times = concatenated(said, generator, pause=(0.5, 0.6))
    transcript, emissions = emissions_of(write(tmp_path / "a.wav", samples))
    aligned = align_text(emissions, " ".join(said), ALPHABET)
    pieces = split_text(aligned, transcript.duration, SplitLimits(max_seconds=2.0))
    assert [piece.text for piece in pieces] == said
    aligned = align_text(emissions, " ".join(said), ALPHABET)
    limits = SplitLimits(max_seconds=0.5, min_seconds=0.45, padding=0.1)
    reasons = {piece.text: piece.dropped for piece in split_text(aligned, 99.0, limits)}
    assert reasons["abc"].startswith("") and reasons["ab"].startswith("short")


# -- the verb ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    def load(model, device, threads):
        return tone_recognizer(threads=threads)

    monkeypatch.setattr("ctcspeech.cli.align.load_recognizer", load)

    def run(*arguments):
        return CliRunner().invoke(app, ["align", "model", *[str(a) for a in arguments]])

    return run


@pytest.fixture
def folder(tmp_path, generator):
    for name, text in [("a", "ab cd"), ("b", "e dd aa")]:
        write(tmp_path / "in" / f"{name}.wav", say(text, generator))
        (tmp_path / "in" / f"{name}.txt").write_text(text.upper() + ".\n")
    return tmp_path / "in"


def test_align_texts_beside_recordings(run, folder, tmp_path):
    result = run(folder)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["AB CD.", "E DD AA."]
    assert [word["word"] for word in rows[0]["words"]] == ["AB", "CD."]
    assert rows[0]["words"][1]["start"] == pytest.approx(0.32, abs=0.04)
    ctm = run(folder, "--format", "ctm").stdout.splitlines()
    assert [row.split()[0] for row in ctm] == ["a", "a", "b", "b", "b"]


def test_align_a_manifest_with_a_bad_item(run, folder, tmp_path):
    manifest = tmp_path / "m.jsonl"
    write_manifest(
        manifest,
        [
            Utterance(folder / "a.wav", 0.5, "ab cd"),
            Utterance(folder / "missing.wav", 0.5, "ab"),
            Utterance(folder / "b.wav", 0.7, "ab " * 200),
        ],
    )
    result = run(manifest, "--format", "text", "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert (tmp_path / "out" / "a.txt").read_text() == "ab cd\n"
    assert "missing.wav" in result.stderr
    assert "the text needs at least 599 frames" in result.stderr
    assert "2 of 3 recordings could not be aligned" in result.stderr


def test_align_one_recording_with_its_text(run, folder, tmp_path):
    recording = folder / "a.wav"
    result = run(recording, "--text-string", "ab xx", "--format", "tsv")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].endswith("\txx\t")
    assert "1 of 2 words are aligned as unknown speech" in result.stderr
    (tmp_path / "t.txt").write_text("ab cd")
    result = run(recording, "--text", tmp_path / "t.txt", "--format", "srt")
    assert result.stdout.endswith("\nab cd\n")
    assert run(folder, "--text-string", "ab").exit_code == 2
    assert run(recording, "--split", tmp_path / "s", "-o", tmp_path / "x").exit_code == 2
    (folder / "a.txt").unlink()
    result = run(recording)
    assert result.exit_code == 1 and "a.txt" in result.stderr and "--text" in result.stderr


@pytest.mark.parametrize("offsets", [False, True])
def test_split_into_a_folder_for_training(run, tmp_path, generator, offsets):
    lines = ["abc de ab", "dad cab be", "eee bb aa cc", "cab dab ed"]
    samples, times = concatenated(lines, generator, pause=(0.8, 0.9))
    recording = write(tmp_path / "talk.wav", samples)
    texts = [lines[0], "Dad, cab be!", "e7e bb aa cc", lines[3]]
    (tmp_path / "talk.txt").write_text("\n".join(texts))
    target = tmp_path / "corpus"
    options = ["--offsets"] if offsets else []
    result = run(recording, "--split", target, "--padding", 0.2, *options)
    assert result.exit_code == 0, result.output
    assert "3 of 4 utterances kept" in result.stdout
    assert "1 dropped: words that the alphabet cannot write" in result.stdout
    report = [json.loads(row) for row in (target / "report.jsonl").read_text().splitlines()]
    assert [bool(row["dropped"]) for row in report] == [False, False, True, False]
    assert "7" in report[2]["dropped"] and report[2]["line"] == 3
    utterances = read_manifest(target / "manifest.jsonl")
    assert [utterance.text for utterance in utterances] == [lines[0], lines[1], lines[3]]
    assert utterances[1].extra["original_text"] == "Dad, cab be!"
    assert (target / "audio").exists() != offsets
    recognizer = tone_recognizer()
    for utterance, transcript, k in zip(
        utterances, recognizer.transcribe(utterances), (0, 1, 3), strict=True
    ):
        assert transcript.text == lines[k]
        assert utterance.duration == pytest.approx(times[k][1] - times[k][0] + 0.4, abs=0.06)
        if offsets:
            assert utterance.offset == pytest.approx(times[k][0] - 0.2, abs=0.06)
        else:
            assert soundfile.info(utterance.audio_filepath).samplerate == RATE
