"""pyctcdecode's interface: against what pyctcdecode itself answered (tests/golden/decoders), and
under the Wav2Vec2ProcessorWithLM of transformers."""

import json
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
