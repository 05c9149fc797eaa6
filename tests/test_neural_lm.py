"""Neural language models: the native LSTM against torch's, files, training, the beam search."""

import copy
import itertools
import json
import math
import pickle
import re

import numpy as np
import pytest
from test_language_model import SMALL
from typer.testing import CliRunner

from ctcspeech import BeamDecoder, LanguageModel
from ctcspeech.cli import app
from ctcspeech.decode.settings import DecoderSettings
from ctcspeech.errors import DecoderError, LanguageModelError
from ctcspeech.lm.neural import END, LN10, SPECIAL, UNKNOWN, NeuralConfig, NeuralLanguageModel

torch = pytest.importorskip("torch")


def random_model(letters="ab ", hidden=13, layers=1, embedding=5, seed=0, scale=0.6):
    config = NeuralConfig([*SPECIAL, *letters], hidden, layers, embedding)
    rng = np.random.default_rng(seed)
    shapes = config.shapes().items()
    return NeuralLanguageModel(
        config, {n: rng.normal(0, scale, s).astype(np.float32) for n, s in shapes}
    )


def torch_log_probs(model, ids):
    """ln P (T, labels) after END and after each of ids but the last, by torch.nn.LSTM."""
    c, t = model.config, {k: torch.from_numpy(v) for k, v in model.tensors.items()}
    lstm = torch.nn.LSTM(c.embedding, c.hidden, c.layers)
    values = {}
    for k in range(c.layers):
        values[f"weight_ih_l{k}"], values[f"weight_hh_l{k}"] = t[f"input.{k}"], t[f"recurrent.{k}"]
        values[f"bias_ih_l{k}"] = t[f"bias.{k}"]
        values[f"bias_hh_l{k}"] = torch.zeros_like(t[f"bias.{k}"])
    lstm.load_state_dict(values)
    with torch.no_grad():
        hidden, _ = lstm(t["embedding"][torch.tensor([END, *ids[:-1]])][:, None])
        return torch.log_softmax(hidden[:, 0] @ t["output"].T + t["output_bias"], -1).numpy()


@pytest.mark.parametrize(("hidden", "layers"), [(1, 1), (7, 2), (32, 1), (40, 3)])
def test_scores_are_torchs(hidden, layers):
    model = random_model("abcdef ", hidden, layers)
    ids = [*model.encode("abba fade  cab z"), END]
    assert UNKNOWN in ids
    expected = torch_log_probs(model, ids)
    found = model.log_probs("abba fade cab z")
    np.testing.assert_allclose(found, expected[np.arange(len(ids)), ids], atol=2e-5)
    assert model.score("abba fade cab z") == pytest.approx(found.sum() / LN10, rel=1e-6)
    state, rows = None, []
    for label in [END, *ids[:-1]]:
        state, ln_p = model.core.step(state, label)
        rows.append(ln_p)
        assert np.exp(ln_p.astype(np.float64)).sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(rows, expected, atol=2e-5)


def test_a_states_scores_do_not_depend_on_the_batch():
    model = random_model("abcdef ", 33, 2)
    rng = np.random.default_rng(1)
    states = [model.core.step(None, END)[0]]
    for _ in range(10):
        states.append(model.core.step(states[-1], int(rng.integers(2, 9)))[0])
    for count in range(1, 12):
        labels = rng.integers(0, 9, count).astype(np.int32)
        next_states, ln_p = model.core.step_many(np.concatenate(states[:count]), labels)
        for i, label in enumerate(labels):
            state, row = model.core.step(states[i], int(label))
            assert np.array_equal(next_states.reshape(count, -1)[i], state)
            assert np.array_equal(ln_p.reshape(count, -1)[i], row)


def test_files(tmp_path):
    model = random_model(layers=2)
    path = tmp_path / "lm.safetensors"
    model.save(path)
    again = NeuralLanguageModel.load(path)
    assert again.config == model.config
    assert np.array_equal(again.log_probs("ab ba"), model.log_probs("ab ba"))
    assert np.array_equal(pickle.loads(pickle.dumps(again)).log_probs("ab"), model.log_probs("ab"))
    assert copy.deepcopy(model) is model
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good), 150):
        data = bytearray(good)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            other = NeuralLanguageModel.load(path)
        except LanguageModelError as error:
            assert str(path) in str(error)
        else:  # white space in the header, the name of a key that nothing reads
            assert np.array_equal(other.log_probs("ab ba"), model.log_probs("ab ba"))
    for size in (0, 7, 100, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(LanguageModelError):
            NeuralLanguageModel.load(path)
    path.write_bytes(good.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(LanguageModelError, match="version 2"):
        NeuralLanguageModel.load(path)
    with pytest.raises(FileNotFoundError):
        NeuralLanguageModel.load(tmp_path / "nowhere")


def test_tensors_and_configurations_are_checked():
    model = random_model()
    for name, array, message in [
        ("bias.0", np.full(52, np.nan, np.float32), "NaN"),
        ("bias.0", np.zeros(51, np.float32), "shape"),
        ("output", None, "missing"),
    ]:
        tensors = {**model.tensors, name: array}
        if array is None:
            del tensors[name]
        with pytest.raises(LanguageModelError, match=message):
            NeuralLanguageModel(model.config, tensors)
    for change in ({"hidden": 0}, {"layers": 1e9}, {"vocabulary": ["a", "b"]}, {"embedding": True}):
        with pytest.raises(LanguageModelError):
            NeuralConfig(**{**vars(model.config), **change}).check()


def test_sampling():
    model = random_model(scale=1.5)
    ids = model.encode(model.sample(temperature=0, longest=20))
    expected = torch_log_probs(model, [*ids, END])
    expected[:, UNKNOWN] = -np.inf
    best = expected.argmax(-1)
    assert list(best[: len(ids)]) == ids and (len(ids) == 20 or best[len(ids)] == END)
    assert model.sample(seed=3) == model.sample(seed=3)
    assert model.sample("ba", seed=1).startswith("ba")
    drawn = [model.sample(seed=s, longest=1) for s in range(3000)]
    p = np.exp(torch_log_probs(model, [END])[0].astype(float))
    p[UNKNOWN] = 0
    p /= p.sum()
    for label, text in ((END, ""), (2, "a"), (3, "b")):
        share = drawn.count(text) / len(drawn)
        assert abs(share - p[label]) < 4.5 * math.sqrt(p[label] * (1 - p[label]) / len(drawn))


# -- training -------------------------------------------------------------------------------------


def write_text(path, lines=300):
    rng = np.random.default_rng(0)
    words = ["one", "two", "three"]
    path.write_text("\n".join(" ".join(rng.choice(words, 3)) for _ in range(lines)) + "\n")
    return path


def options(**changes):
    from ctcspeech.lm.neural_train import NeuralOptions

    given = {"hidden": 24, "embedding": 8, "epochs": 3, "batch": 8, "window": 20}
    return NeuralOptions(**{**given, "learning_rate": 0.02, "layers": 2, **changes})


def test_training_learns(tmp_path):
    from ctcspeech.lm.neural_train import train_neural_lm

    text = write_text(tmp_path / "t.txt", 600)
    given = options(epochs=4, layers=1, dropout=0.0, hidden=32)
    report = train_neural_lm([text], tmp_path / "lm.safetensors", given)
    model = NeuralLanguageModel.load(tmp_path / "lm.safetensors")
    # Three equally likely words thrice, some 15 labels: at best log2(27) bits a sentence.
    lines = text.read_text().splitlines()
    held = lines[99::100]
    bits = -sum(model.score(line) * math.log2(10) for line in held)
    labels = sum(len(line) + 1 for line in held)
    assert report.bits_per_label == pytest.approx(bits / labels, rel=1e-5)
    assert math.log2(27) * len(held) * 0.9 < bits < 1.6 * math.log2(27) * len(held)
    assert not (tmp_path / "lm.safetensors.state").exists()


@pytest.mark.parametrize("stop", [1, 40, 77])
def test_resuming_is_exact(tmp_path, stop):
    from ctcspeech.lm import neural_train

    text = write_text(tmp_path / "t.txt")
    given = options(save_seconds=0.0)
    neural_train.train_neural_lm([text], tmp_path / "whole", given)
    taken = itertools.count(1)
    update = neural_train._Run.update

    def stopping(self, *arguments):
        if next(taken) > stop:
            raise KeyboardInterrupt
        return update(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neural_train._Run, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            neural_train.train_neural_lm([text], tmp_path / "parts", given)
    assert not (tmp_path / "parts").exists() and (tmp_path / "parts.state").exists()
    for wrong, message in (
        ({"texts": [text, text]}, "another text"),
        ({"options": options(dropout=0.2)}, "another options"),
    ):
        arguments = {"texts": [text], "options": given, **wrong}
        with pytest.raises(LanguageModelError, match=message):
            neural_train.train_neural_lm(
                arguments["texts"], tmp_path / "parts", arguments["options"], resume=True
            )
    neural_train.train_neural_lm([text], tmp_path / "parts", given, resume=True)
    whole, parts = (NeuralLanguageModel.load(tmp_path / name) for name in ("whole", "parts"))
    assert whole.config == parts.config
    for name, array in whole.tensors.items():
        assert np.array_equal(array, parts.tensors[name]), name


def test_what_cannot_be_trained(tmp_path):
    from ctcspeech.lm.neural_train import train_neural_lm

    (tmp_path / "short").write_text("one\n")
    (tmp_path / "latin1").write_bytes(b"\xe9\n" * 200)
    for name, message in (("short", "sentences"), ("latin1", "latin1, line 1: not UTF-8")):
        with pytest.raises(LanguageModelError, match=message):
            train_neural_lm([tmp_path / name], tmp_path / "lm", options())
    with pytest.raises(LanguageModelError, match="no run to resume"):
        text = write_text(tmp_path / "t.txt")
        train_neural_lm([text], tmp_path / "lm", options(), resume=True)
    with pytest.raises(ValueError, match="dropout"):
        train_neural_lm([text], tmp_path / "lm", options(dropout=1.5))


# -- the beam search ------------------------------------------------------------------------------

LABELS = ["<blank>", "a", "b"]
WIDE = {"beam_size": 5000, "beam_threshold": 1e3, "token_min_logp": -1e3, "word_times": False}


def all_texts(emissions):
    """{labels: ln P_ctc} by enumerating every path; columns are blank, a, b."""
    logp = emissions - np.log(np.exp(emissions).sum(-1, keepdims=True))
    found = {}
    for path in itertools.product(range(3), repeat=len(logp)):
        merged = [k for k, _ in itertools.groupby(path)]
        text = "".join(LABELS[k] for k in merged if k)
        ln = sum(logp[t, k] for t, k in enumerate(path))
        found[text] = np.logaddexp(found.get(text, -np.inf), ln)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_search_is_that_of_enumeration(seed):
    rng = np.random.default_rng(seed)
    emissions = rng.normal(0, 1.5, (6, 3)).astype(np.float32)
    model = random_model("ab", seed=seed)
    decoder = BeamDecoder(LABELS, neural_lm=model, neural_weight=0.7, n_best=20, **WIDE)
    expected = {
        text: ln + 0.7 * model.score(text) * LN10 for text, ln in all_texts(emissions).items()
    }
    order = sorted(expected, key=expected.get, reverse=True)[:20]
    found = decoder.decode(emissions)[0]
    assert [h.text for h in found] == order
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=1e-4)
        assert hypothesis.lm_score == 0


@pytest.mark.parametrize("seed", range(6))
def test_together_with_words(tmp_path, seed):
    (tmp_path / "words.arpa").write_text(re.sub(r"(?<=[\t ])a(?=[\t \n])", "ab", SMALL))
    words = LanguageModel.load(tmp_path / "words.arpa")
    assert "ab" in words
    emissions = np.random.default_rng(seed).normal(0, 1.5, (6, 3)).astype(np.float32)
    model = random_model("ab", seed=seed)
    decoder = BeamDecoder(
        LABELS, words, lm_weight=0.4, word_score=1.1, neural_lm=model, neural_weight=0.6, **WIDE
    )
    expected = {}
    for text, ln in all_texts(emissions).items():
        if text in ("", "ab", "b"):  # what the lexicon has
            expected[text] = ln + LN10 * (0.4 * words.score(text) + 0.6 * model.score(text))
            expected[text] += 1.1 * bool(text)
    best = max(expected, key=expected.get)
    (hypothesis,) = decoder.decode(emissions)[0]
    assert hypothesis.text == best
    assert hypothesis.score == pytest.approx(expected[best], abs=1e-4)
    assert hypothesis.lm_score == pytest.approx(LN10 * words.score(best), abs=1e-4)


def sentence_emissions(seed, frames=400):
    return np.random.default_rng(seed).normal(0, 2.0, (frames, 4)).astype(np.float32)


def test_streams_and_threads_find_the_same():
    labels = [*LABELS, " "]
    model = random_model("ab ", hidden=20, layers=2)
    decoder = BeamDecoder(labels, neural_lm=model, neural_weight=0.8, beam_size=20, threads=3)
    batch = [sentence_emissions(s) for s in range(6)]
    whole = [found[0] for found in decoder.decode(batch)]
    for emissions, expected in zip(batch, whole, strict=True):
        stream = decoder.stream()
        for start in range(0, len(emissions), 37):
            stream.accept(emissions[start : start + 37])
            assert stream.partial().text is not None
        (found, *_) = stream.finish()
        assert found.text == expected.text and found.score == pytest.approx(expected.score)
        ids = [model.index(labels[k]) for k in found.tokens]
        ln = float(model.core.score(np.array([*ids, END], dtype=np.int32)).sum(dtype=float))
        assert found.score == pytest.approx(found.ctc_score + 0.8 * ln, abs=1e-2)


def test_arguments():
    model = random_model("xyz")
    with pytest.raises(DecoderError, match="knows none of the labels"):
        BeamDecoder(LABELS, neural_lm=model)
    model = random_model("ab")
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="neural_weight"):
            BeamDecoder(LABELS, neural_lm=model, neural_weight=weight)
    decoder = BeamDecoder(LABELS, neural_lm=model, **WIDE)
    plain = BeamDecoder(LABELS, **WIDE)
    emissions = sentence_emissions(1, 8)[:, :3]
    unweighted = decoder.replace(neural_weight=0.0).decode(emissions)[0][0]
    assert unweighted.score == pytest.approx(plain.decode(emissions)[0][0].score)
    with pytest.raises(ValueError, match="context"):
        decoder.stream(context="ab")


def test_settings_keep_it(tmp_path):
    model = random_model("ab")
    model.save(tmp_path / "lm.safetensors")
    settings = DecoderSettings(neural_lm=tmp_path / "lm.safetensors", neural_weight=0.45)
    settings.save(tmp_path)
    assert json.loads((tmp_path / "decoder.json").read_text())["neural_lm"] == "lm.safetensors"
    again = DecoderSettings.find(tmp_path)
    assert again == settings
    from ctcspeech import Alphabet

    decoder = again.decoder(Alphabet(LABELS), 20.0)
    assert decoder.neural_weight == 0.45 and decoder.neural_lm.config == model.config
    (tmp_path / "lm.safetensors").unlink()
    with pytest.raises(DecoderError, match="missing; give another with --neural-lm"):
        again.decoder(Alphabet(LABELS), 20.0)


# -- the command line -----------------------------------------------------------------------------


def test_verbs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "t.txt")

    def run(*arguments, code=0, **more):
        result = CliRunner().invoke(app, ["lm", *arguments], **more)
        assert result.exit_code == code, result.output
        return result.stdout

    small = ["--hidden", "16", "--embedding", "8", "--batch", "8", "--window", "20"]
    out = run("train", "t.txt", "-o", "lm.safetensors", *small, "--epochs", "2")
    assert "bits a label held out" in out
    model = NeuralLanguageModel.load("lm.safetensors")
    rows = run("query", "lm.safetensors", "-", input="one two\n\nthree\n")
    total = model.score("one two") + model.score("three")
    assert f"{total:.4f}" in rows and "14 (with </s>), 0 of them unknown" in rows
    labels = run("query", "lm.safetensors", "-", "--words", input="one\n").splitlines()
    assert [line.split("\t")[0] for line in labels[:4]] == ["o", "n", "e", "</s>"]
    drawn = run("sample", "lm.safetensors", "--count", "3", "--temperature", "0.5", "--seed", "7")
    assert drawn.splitlines() == [model.sample(temperature=0.5, seed=s) for s in (7, 8, 9)]
    run("train", "t.txt", "-o", "more.safetensors", *small, "--epochs", "1", "--init",
        "lm.safetensors")  # fmt: skip
    assert NeuralLanguageModel.load("more.safetensors").config == model.config
