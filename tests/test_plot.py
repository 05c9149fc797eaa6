"""Pictures: what their panels hold, that their files are valid, and the verb plot."""

import json
import xml.etree.ElementTree
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest
from tone_language import ALPHABET, RATE, hush, say, tone_recognizer, write
from typer.testing import CliRunner

from ctcspeech.align.known_text import align_text
from ctcspeech.cli import app
from ctcspeech.decode.hypothesis import Word
from ctcspeech.emissions import Emissions
from ctcspeech.errors import TrainingError
from ctcspeech.evaluate.plot import plot_recording, plot_training, trellis


@pytest.fixture
def heard():
    """Samples, emissions and the aligned text of "ab cd"."""
    generator = np.random.default_rng(3)
    samples = np.concatenate([hush(0.3, generator), say("ab cd", generator)])
    recognizer = tone_recognizer()
    (scores,) = recognizer.emissions([samples])
    emissions = Emissions(scores, ALPHABET.labels, 0, recognizer.frame_shift_ms)
    return samples, emissions, align_text(emissions, "ab cd", ALPHABET)


def image(panel):
    (found,) = panel.get_images()
    return found


def test_panels_of_a_recording(heard):
    samples, emissions, aligned = heard
    figure = plot_recording(samples, RATE, emissions, aligned.words, title="ab.wav")
    waveform, spectrogram, labels = figure.axes
    assert [panel.get_ylabel() for panel in figure.axes] == [
        "amplitude", "frequency (kHz)", "label (probability)"
    ]  # fmt: skip
    assert figure.get_suptitle() == "ab.wav"
    duration = len(samples) / RATE
    assert all(panel.get_xlim() == pytest.approx((0, duration)) for panel in figure.axes)
    # The wave, and no less than its extremes.
    low, high = waveform.get_ylim()
    assert low <= samples.min() and high >= samples.max()
    assert [text.get_text() for text in waveform.texts] == ["ab", "cd"]
    # Each word has a line at both its ends in each panel.
    for panel in figure.axes:
        times = sorted(line.get_xdata()[0] for line in panel.lines if len(line.get_xdata()) == 2)
        assert times == pytest.approx([t for word in aligned.words for t in (word.start, word.end)])
    # The spectrogram's loudest frequency at "a" is that of its tone: bin 14 of 50 Hz.
    picture = image(spectrogram)
    left, right, bottom, top = picture.get_extent()
    assert (bottom, top) == (0, 4)
    values = picture.get_array()
    column = int((aligned.words[0].start + 0.03 - left) / (right - left) * values.shape[1])
    assert values[:, column].argmax() / len(values) * 4 == pytest.approx(0.7, abs=0.05)
    assert values.max() == 0.0
    # The heat map: probabilities, the blank's row first.
    picture = image(labels)
    assert np.asarray(picture.get_array()) == pytest.approx(
        np.exp(emissions.log_probs()).T, abs=1e-6
    )
    assert picture.get_extent()[1] == pytest.approx(emissions.duration)
    assert [text.get_text() for text in labels.get_yticklabels()] == list("∅␣abcde")


def test_a_range_of_time(heard):
    samples, emissions, aligned = heard
    start, end = 0.3, 0.62
    part = samples[int(start * RATE) : int(end * RATE)]
    figure = plot_recording(part, RATE, emissions, aligned.words, offset=start)
    assert figure.axes[0].get_xlim() == pytest.approx((start, end))
    assert [text.get_text() for text in figure.axes[0].texts] == ["ab"]
    picture = image(figure.axes[2])
    assert np.asarray(picture.get_array()) == pytest.approx(
        np.exp(emissions.log_probs())[15:31].T, abs=1e-6
    )
    assert picture.get_extent()[:2] == pytest.approx((0.3, 0.62))
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_recording(samples[:0], RATE, emissions)


def test_trellis_of_a_text(heard):
    samples, emissions, aligned = heard
    states = trellis(emissions, aligned)
    assert states.names == list("∅a∅b∅␣∅c∅d∅")
    assert states.occupation.shape == (len(emissions), 11)
    assert states.occupation.sum(axis=1) == pytest.approx(np.ones(len(emissions)))
    labels = np.array([0, 2, 0, 3, 0, 1, 0, 4, 0, 5, 0])
    assert labels[states.path].tolist() == aligned.alignment.path.tolist()
    assert (np.diff(states.path) >= 0).all()
    figure = plot_recording(samples, RATE, emissions, aligned.words, trellis=states)
    panel = figure.axes[3]
    assert np.asarray(image(panel).get_array()) == pytest.approx(states.occupation.T)
    best = next(line for line in panel.lines if line.get_label() == "best path")
    assert best.get_ydata()[:-1].tolist() == states.path.tolist()
    assert panel.yaxis_inverted()


def test_trellis_of_a_part(heard):
    _, emissions, aligned = heard
    second = aligned.words[1]
    states = trellis(emissions, aligned, second.start - 0.02, second.end + 0.02)
    assert states.names == list("∅c∅d∅")
    assert states.times == pytest.approx((second.start - 0.02, second.end + 0.02), abs=0.021)
    assert states.path[0] == 0 and states.path[-1] == 4
    silent = trellis(emissions, aligned, 0.0, 0.2)
    assert silent.names == ["∅"] and (silent.occupation == 1).all()


def test_trellis_too_large_or_with_unknown_words(heard):
    _, emissions, _ = heard
    with pytest.raises(TypeError, match="wildcards|cannot write"):
        trellis(emissions, align_text(emissions, "ab xy", ALPHABET))
    long = Emissions(np.zeros((20_000, len(ALPHABET)), np.float32), ALPHABET.labels, 0, 20.0)
    aligned = align_text(long, "abcde " * 100, ALPHABET)
    with pytest.raises(ValueError, match="20000 frames of 1199 states.*shorter range"):
        trellis(long, aligned)


def test_files_are_valid_at_any_length(heard):
    samples, emissions, aligned = heard
    figure = plot_recording(samples, RATE, emissions, aligned.words)
    written = BytesIO()
    figure.savefig(written, format="png")
    written.seek(0)
    pixels = matplotlib.image.imread(written, format="png")
    width, height = figure.get_size_inches() * figure.dpi
    assert pixels.shape[:2] == pytest.approx((height, width), abs=1)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    written = BytesIO()
    figure.savefig(written, format="svg")
    assert xml.etree.ElementTree.fromstring(written.getvalue()).tag.endswith("svg")
    # Ten minutes, with 3000 words: no panel has more columns than can be seen.
    many = np.random.default_rng(0).normal(0, 0.1, 600 * 400).astype(np.float32)
    scores = np.random.default_rng(1).normal(size=(30_000, 400)).astype(np.float32)
    long = Emissions(scores, [f"<{i}>" for i in range(400)], 0, 20.0)
    words = [Word("w", 0.2 * i, 0.2 * i + 0.1) for i in range(3000)]
    figure = plot_recording(many, 400, long, words)
    assert figure.get_size_inches()[0] <= 24
    for panel in figure.axes[1:]:
        assert image(panel).get_array().shape[1] <= 6000
    assert image(figure.axes[2]).get_array().shape[0] == 48  # of 400 labels
    figure.savefig(BytesIO(), format="png")


# -- training ---------------------------------------------------------------------------------


def write_run(folder):
    folder.mkdir()
    rows = [
        {"kind": "step", "step": 10 * i, "loss": 5 / i, "learning_rate": 1e-3, "gradient_norm": i}
        for i in range(1, 9)
    ]
    rows += [
        {"kind": "epoch", "step": 40 * i, "loss": 3 / i, "validation_loss": 4 / i,
         "validation_wer": 0.5 / i, "validation_cer": 0.2 / i} for i in (1, 2)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_curves_of_a_run(tmp_path):
    folder = write_run(tmp_path / "run")
    figure = plot_training(folder)
    curves = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for panel in figure.axes
        for line in panel.lines
    }
    assert curves["training, steps"] == (list(range(10, 90, 10)), [5 / i for i in range(1, 9)])
    assert curves["validation"] == ([40, 80], [4.0, 2.0])
    assert curves["WER"] == ([40, 80], [50.0, 25.0])
    assert curves["CER"] == ([40, 80], [20.0, 10.0])
    assert curves["learning rate"][1] == [1e-3] * 8
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels == ["CTC loss", "validation error (%)", "learning rate", "gradient norm"]


def test_metrics_that_cannot_be_read(tmp_path):
    with pytest.raises(TrainingError, match="is this a run"):
        plot_training(tmp_path)
    path = write_run(tmp_path / "run") / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + '{"kind": "st')  # being written
    plot_training(path.parent)
    path.write_text("no metrics\n" + text)
    with pytest.raises(TrainingError, match=r"metrics.jsonl:1"):
        plot_training(path.parent)
    path.write_text("")
    with pytest.raises(TrainingError, match="no metrics yet"):
        plot_training(path.parent)


# -- the verb ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("ctcspeech.cli.plot.load_recognizer", lambda *_: tone_recognizer())
    figures = []

    def spy(*arguments, **options):
        figures.append(plot_recording(*arguments, **options))
        return figures[-1]

    monkeypatch.setattr("ctcspeech.evaluate.plot.plot_recording", spy)

    def run(*arguments):
        result = CliRunner().invoke(app, ["plot", *[str(a) for a in arguments]])
        return result, figures[-1] if figures else None

    return run


def test_plot_a_recording(run, heard, tmp_path):
    path = write(tmp_path / "ab.wav", heard[0])
    target = tmp_path / "new" / "ab.png"
    result, figure = run(path, "--model", "m", "-o", target)
    assert result.exit_code == 0, result.output
    assert target.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(figure.axes) == 3
    assert [text.get_text() for text in figure.axes[0].texts] == ["ab", "cd"]
    options = ("--text-string", "ab cd", "--from", 0.3, "--to", 0.6)
    result, figure = run(path, "--model", "m", "-o", tmp_path / "ab.svg", *options)
    assert result.exit_code == 0, result.output
    assert xml.etree.ElementTree.parse(tmp_path / "ab.svg").getroot().tag.endswith("svg")
    assert len(figure.axes) == 4
    assert figure.axes[0].get_xlim() == pytest.approx((0.3, 0.6))


def test_plot_a_run(run, tmp_path):
    folder = write_run(tmp_path / "run")
    result, _ = run(folder, "-o", tmp_path / "curves.png")
    assert result.exit_code == 0, result.output
    assert matplotlib.image.imread(tmp_path / "curves.png").ndim == 3


def test_wrong_usage(run, heard, tmp_path):
    path = write(tmp_path / "ab.wav", heard[0])
    assert "--model is needed" in run(path)[0].output
    assert "must end in" in run(path, "--model", "m", "-o", tmp_path / "x.gif")[0].output
    assert run(path, "--model", "m", "--from", 2, "--to", 1)[0].exit_code == 2
    result, _ = run(path, "--model", "m", "--from", 50, "-o", tmp_path / "x.png")
    assert result.exit_code == 1 and "nothing from 50 s on" in str(result.exception)
    assert not (tmp_path / "x.png").exists()
