"""pyctcdecode's interface: against what pyctcdecode itself answered (tests/golden/decoders), and
under the Wav2Vec2ProcessorWithLM of transformers."""

import copy
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ctcspeech.compat import pyctcdecode
from ctcspeech.compat.pyctcdecode import BeamSearchDecoderCTC, build_ctcdecoder
from ctcspeech.errors import LanguageModelError

FOLDER = Path(__file__).parent / "golden" / "decoders"
LM = str(FOLDER / "lm.arpa")
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
SPOKEN = [np.array(item, dtype=np.float32) for item in GOLDEN["spoken"]]
CASES = {case["name"]: case for case in GOLDEN["pyctcdecode"]}


def build(case):
    labels = GOLDEN["pieces" if case["name"] == "pieces" else "characters"]
    lm = None if case["name"] == "no model" else LM
    return build_ctcdecoder(labels, lm, **case["build"])


@pytest.mark.parametrize("name", CASES)
def test_the_scores_are_those_of_pyctcdecode(name):
    case = CASES[name]
    decoder = build(case)
    spoken = GOLDEN["spoken_pieces"] if name == "pieces" else SPOKEN
    equal = compared = 0
    for item, golden in zip(spoken, case["beams"], strict=True):
        beams = decoder.decode_beams(np.array(item, dtype=np.float32), **case["call"])
        assert beams[0][4] > golden[0][3] - 0.1  # no worse a search
        ours = {beam[0]: beam for beam in beams}
        for text, frames, logit_score, lm_score in golden:
            if text not in ours:
                continue
            _, _, words, our_logit_score, our_lm_score = ours[text]
            compared += 1
            assert [word for word, _ in words] == [word for word, *_ in frames]
            # pyctcdecode may take a labelling that ends in a space for one with an unknown word
            # more; what the rest adds is the same.
            same = abs((our_lm_score - our_logit_score) - (lm_score - logit_score)) < 2e-3
            assert same or lm_score < our_lm_score - 2
            # Theirs sum the alignments that were not pruned; ours all.
            assert not same or our_logit_score > logit_score - 1e-3
            equal += same
    assert compared >= 4 and equal >= 0.6 * compared


def test_frames_of_words():
    for item, golden in zip(SPOKEN, CASES["no model"]["beams"], strict=True):
        words = build(CASES["no model"]).decode_beams(item)[0][2]
        for (word, (start, end)), (theirs, *frames) in zip(words, golden[0][1], strict=True):
            assert word == theirs
            assert np.abs(np.subtract((start, end), frames)).max() <= 3


def test_batches_probabilities_and_states():
    decoder = build_ctcdecoder(GOLDEN["characters"], LM, alpha=0.6, beta=1.0)
    texts = decoder.decode_batch(None, SPOKEN)
    assert texts == [decoder.decode(item) for item in SPOKEN]
    assert texts[0] == "bad cab"
    assert decoder.decode(SPOKEN[3], token_min_logp=-9.0) == "a bead cab"
    assert decoder.decode(np.exp(SPOKEN[0].astype(np.float64))) == texts[0]
    beams = decoder.decode_beams_batch(None, SPOKEN)
    assert [found[0][0] for found in beams] == texts and len(beams[0][0]) == 4
    # Going on from the state after "dad a" scores as the words in one sentence do.
    lm = decoder._language_model
    first = decoder.decode_beams(SPOKEN[1])[0]
    model = lm.model
    carried = decoder.decode_beams(SPOKEN[0], lm_start_state=first[1])[0]
    state, total = first[1], 0.0
    for word in carried[0].split():
        log10, state = model.score_word(state, word)
        total += log10
    total = 0.6 * np.log(10) * (total + model.score_end(state)) + 1.0 * 2
    assert carried[0] == "bad cab" and carried[4] - carried[3] == pytest.approx(total, abs=1e-4)
    decoder.reset_params(alpha=0.0, beta=0.0, unk_score_offset=0.0)
    assert decoder.decode(SPOKEN[3], token_min_logp=-9.0) == "a bed cab"


def test_alphabets():
    def labels(names, **options):
        return pyctcdecode.Alphabet.build_alphabet(names, **options).labels

    assert labels(["<pad>", "<unk>", "|", "a"]) == ["", "⁇", " ", "a"]
    assert labels(["a", " "]) == ["a", " ", ""]
    assert labels(["_", "a", " "]) == ["", "a", " "]
    assert labels(["a", " ", "X"], ctc_token_idx=2) == ["a", " ", ""]
    assert labels(["[PAD]", "[UNK]", "ba", "##d"]) == ["", "▁⁇▁", "▁ba", "d"]
    with pytest.raises(ValueError, match="duplicate"):
        labels(["a", "a"])
    decoder = build_ctcdecoder(["", " ", "a"])
    with pytest.raises(ValueError, match="vocabulary is size 3"):
        decoder.decode(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="beam_prune_logp must be at most 0"):
        decoder.decode(np.zeros((4, 3)), beam_prune_logp=3.0)


def test_saved_and_loaded(tmp_path):
    decoder = build_ctcdecoder(GOLDEN["characters"], LM, ["bad", "cab"], alpha=0.7, beta=2.0)
    decoder.save_to_dir(str(tmp_path))
    loaded = BeamSearchDecoderCTC.load_from_dir(str(tmp_path))
    assert (loaded._language_model.alpha, loaded._language_model.beta) == (0.7, 2.0)
    for item in SPOKEN:
        assert loaded.decode(item) == decoder.decode(item)
    with pytest.raises(ValueError, match="alphabet.json"):
        BeamSearchDecoderCTC.load_from_dir(str(tmp_path / "language_model"))
    (tmp_path / "mmap.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(LanguageModelError):
        build_ctcdecoder(GOLDEN["characters"], str(tmp_path / "mmap.bin"))


@pytest.fixture
def installed(monkeypatch):
    """The name pyctcdecode for this module, and only for one test."""
    before = {name: module for name, module in sys.modules.items() if "pyctcdecode" in name}
    for name in before:
        if name.split(".")[0] == "pyctcdecode":
            monkeypatch.delitem(sys.modules, name)
    pyctcdecode.install()
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "pyctcdecode"]:
        del sys.modules[name]


def test_processor_of_transformers(installed, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    vocabulary = ["<pad>", "<unk>", "|", *"abcde"]
    numbers = {label: i for i, label in enumerate(vocabulary)}
    (tmp_path / "vocab.json").write_text(json.dumps(numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.Wav2Vec2CTCTokenizer(
            str(tmp_path / "vocab.json"), bos_token=None, eos_token=None
        )
        extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000)
        decoder = build_ctcdecoder(vocabulary, LM, alpha=0.6, beta=1.0)
        processor = transformers.Wav2Vec2ProcessorWithLM(extractor, tokenizer, decoder)
        config = transformers.Wav2Vec2Config(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8), conv_stride=(5, 4),
            conv_kernel=(10, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        torch.manual_seed(0)
        model = transformers.Wav2Vec2ForCTC(config).eval()
        samples = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
        inputs = processor(samples, sampling_rate=8000, return_tensors="pt")
        with torch.no_grad():
            logits = model(inputs.input_values).logits.numpy()  # (1, T, C)
        answer = processor.batch_decode(logits)
        assert answer.text == [decoder.decode_beams(logits[0])[0][0]]
        # Emissions whose text is known: the labels of the golden ones, in this vocabulary.
        spoken = np.full((len(SPOKEN[0]), len(vocabulary)), -30, np.float32)
        columns = [numbers[{"": "<pad>", " ": "|"}.get(x, x)] for x in GOLDEN["characters"]]
        spoken[:, columns] = SPOKEN[0]
        found = processor.decode(spoken, output_word_offsets=True, n_best=1)
        assert found.text == "bad cab"
        assert [entry["word"] for entry in found.word_offsets] == ["bad", "cab"]
        assert found.lm_score == pytest.approx(decoder.decode_beams(spoken)[0][4])


def test_install_refuses_where_the_real_one_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyctcdecode", json)
    with pytest.raises(RuntimeError, match="imported already"):
        pyctcdecode.install()


def test_a_hot_word_that_the_model_does_not_know_costs_what_unknown_words_cost():
    decoder = build_ctcdecoder(GOLDEN["characters"], LM, alpha=0.5, beta=1.0)
    lm = decoder._language_model
    word = "edad"
    assert not lm.knows(word) and lm.knows("bad")
    spoken = np.full((9, len(GOLDEN["characters"])), -12.0, np.float32)
    blank = GOLDEN["characters"].index("")
    for t in range(9):
        label = GOLDEN["characters"].index(word[t // 2]) if t % 2 == 0 and t < 8 else blank
        spoken[t, label] = 0.0
    text, state, _, logit_score, lm_score = decoder.decode_beams(spoken, hotwords=[word])[0]
    log10, after = lm.model.score_word(lm.get_start_state(), word)
    expected = 0.5 * np.log(10) * (log10 - 10 + lm.model.score_end(after)) + 1.0 + 10.0
    assert text == word and state == after
    assert lm_score - logit_score == pytest.approx(expected, abs=1e-4)


def test_an_unknown_word_that_is_clearly_said_survives_the_default_pruning():
    decoder = build_ctcdecoder(GOLDEN["characters"], LM, alpha=0.5, beta=1.0)
    for text in ("bad edad", "cabec bad", "a dadde"):
        path = [label for letter in text for label in (letter, "")]
        spoken = np.full((len(path), len(GOLDEN["characters"])), -20.0, np.float32)
        for t, label in enumerate(path):
            spoken[t, GOLDEN["characters"].index(label)] = 0.0
        assert decoder.decode(spoken) == text


class _Own(pyctcdecode.AbstractLanguageModel):
    """The compat model, by the interface for models of one's own."""

    def __init__(self, inner):
        self.inner = inner

    order = 2

    def get_start_state(self):
        return [self.inner.get_start_state()]

    def score_partial_token(self, partial_token):
        return 0.0

    def score(self, prev_state, word, is_last_word=False):
        score, state = self.inner.score(prev_state[0], word, is_last_word)
        return score, [state]


def test_models_of_ones_own_and_several():
    inner = pyctcdecode.LanguageModel(LM, alpha=0.6, beta=1.0)
    alphabet = pyctcdecode.Alphabet.build_alphabet(GOLDEN["characters"])
    reference = BeamSearchDecoderCTC(alphabet, inner)
    own = BeamSearchDecoderCTC(alphabet, _Own(inner))
    twice = BeamSearchDecoderCTC(alphabet, pyctcdecode.MultiLanguageModel([inner, inner]))
    wide = {"beam_width": 500, "beam_prune_logp": -60.0, "token_min_logp": -15.0}
    for item in SPOKEN:
        # Of a model of one's own the search does not know which words are unlikely to come.
        for decoder, call in ((own, wide), (twice, {}), (twice, wide)):
            text, _, _, _, score = reference.decode_beams(item, **call)[0]
            found = decoder.decode_beams(item, **call)[0]
            assert found[0] == text and found[4] == pytest.approx(score, abs=1e-3)
    with pytest.raises(ValueError, match="at least 2"):
        pyctcdecode.MultiLanguageModel([inner])


def test_parts_that_other_programs_use(tmp_path):
    lines = Path(LM).read_text().split("\\2-grams:")[0].split("\\1-grams:")[1].splitlines()
    words = {line.split("\t")[1] for line in lines if len(line.split("\t")) == 3}
    assert pyctcdecode.load_unigram_set_from_arpa(LM) == words
    scorer = pyctcdecode.HotwordScorer.build_scorer(["hello you", "help"], weight=6.0)
    assert "he" in scorer and "x" not in scorer
    assert scorer.score("you said hello hellos") == 12.0
    assert scorer.score_partial_token("he") == 3.0 and scorer.score_partial_token("z") == 0.0
    decoder = build_ctcdecoder(GOLDEN["characters"], LM, ["bad", "cab"])
    decoder.save_to_dir(str(tmp_path))
    decoder.save_to_dir(str(tmp_path))  # again
    found = BeamSearchDecoderCTC.parse_directory_contents(str(tmp_path))
    files = pyctcdecode.LanguageModel.parse_directory_contents(found["language_model"])
    assert sorted(files) == ["json_attrs", "kenlm", "unigrams"]
    (tmp_path / "language_model" / "more.txt").write_text("")
    with pytest.raises(ValueError, match="one model"):
        pyctcdecode.LanguageModel.parse_directory_contents(found["language_model"])


def test_copies_and_pickles():
    decoder = build_ctcdecoder(GOLDEN["characters"], LM, alpha=0.7)
    expected = decoder.decode_beams(SPOKEN[0])
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert other.decode_beams(SPOKEN[0]) == expected
        other.reset_params(alpha=0.1)
        assert decoder._language_model.alpha == 0.7
    state = expected[0][1]
    assert pickle.loads(pickle.dumps(state)) == state == copy.deepcopy(state)
    key = decoder._model_key
    assert key in BeamSearchDecoderCTC.model_container
    del decoder
    assert key not in BeamSearchDecoderCTC.model_container


PROCESSOR = """
import json, sys, warnings
from pathlib import Path
folder, lm = Path(sys.argv[1]), sys.argv[2]
import importlib.util, importlib.machinery
finders = list(sys.meta_path)
class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in ("kenlm", "pyctcdecode", "pygtrie"):
            return None
        return super().find_spec(name, path, target)
sys.meta_path = [Without if f is importlib.machinery.PathFinder else f for f in finders]
assert importlib.util.find_spec("kenlm") is None
from ctcspeech.compat import pyctcdecode
pyctcdecode.install()
warnings.simplefilter("ignore")
import transformers
vocabulary = ["<pad>", "<unk>", "|", *"abcde"]
(folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(vocabulary)}))
tokenizer = transformers.Wav2Vec2CTCTokenizer(
    str(folder / "vocab.json"), bos_token=None, eos_token=None
)
extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000)
decoder = pyctcdecode.build_ctcdecoder(vocabulary, lm, alpha=0.6, beta=1.0)
processor = transformers.Wav2Vec2ProcessorWithLM(extractor, tokenizer, decoder)
processor.save_pretrained(folder / "model")
loaded = transformers.Wav2Vec2ProcessorWithLM.from_pretrained(folder / "model")
assert loaded.language_model.alpha == 0.6 and loaded.language_model.beta == 1.0
import numpy as np
logits = np.random.default_rng(0).normal(size=(30, len(vocabulary))).astype(np.float32)
assert loaded.decode(logits).text == processor.decode(logits).text
print("saved and loaded")
"""


def test_processor_of_transformers_saved_and_loaded_without_the_peers(tmp_path):
    pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-c", PROCESSOR, str(tmp_path), LM],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert "saved and loaded" in done.stdout, done.stderr[-2000:]
