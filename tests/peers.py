"""Runs the same calls through the installed peers and through ctcspeech.compat, and compares.

    python tests/peers.py [PART_OF_A_NAME]

needs those of pyctcdecode, kenlm, and torchaudio with flashlight-text that are to be compared;
fetches nothing. What is expected is taken from the peer in the same run. Exit code 1 where an
answer differs and is not declared in DIFFERENT, or where one is declared that does not differ;
2 where no peer is installed. docs/coming-over.md says what each declared difference is about.
"""

import importlib
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden" / "decoders"
LM = str(FOLDER / "lm.arpa")
LEXICON = str(FOLDER / "lexicon.txt")
LETTERS = "abcde"
WORDS = [line.split()[0] for line in Path(LEXICON).read_text().splitlines()]
WIDE = {"beam_width": 500, "beam_prune_logp": -1000.0, "token_min_logp": -1000.0}
PEERS = {
    "pyctcdecode": ("pyctcdecode.decoder", "ctcspeech.compat.pyctcdecode"),
    "torchaudio": ("torchaudio.models.decoder", "ctcspeech.compat.torchaudio"),
    "kenlm": ("kenlm", "ctcspeech.compat.kenlm"),
}
CASES = {}
# Differences that are meant.
DIFFERENT = {
    "pyctcdecode: decode at the default settings",
    "pyctcdecode: frames of words",
    "pyctcdecode: special labels",
    "torchaudio: a last word without silence after it",
    "torchaudio: lists without a lexicon have one text once",
    "torchaudio: spellings that are not the word's own",
    "kenlm: the type of an error",
}


def case(peer):
    def register(function):
        CASES[f"{peer}: {function.__doc__}"] = (peer, function)
        return function

    return register


def utterances(end_in_silence=True):
    """Spoken (T, 7): blank, separator, a to e. Rows are natural-log probabilities."""
    golden = json.loads((FOLDER / "golden.json").read_text())
    for rows in golden["ending"] if end_in_silence else golden["plain"]:
        yield np.array(rows, dtype=np.float32)


def said(path, labels, certain=0.9):
    """(T, C): each of path's frames says one label, or several alike."""
    rows = np.full((len(path), len(labels)), (1 - certain) / len(labels))
    for row, names in zip(rows, path, strict=True):
        for name in [names] if isinstance(names, str) else names:
            row[labels.index(name)] += certain / (1 if isinstance(names, str) else len(names))
    return np.log(rows / rows.sum(1, keepdims=True)).astype(np.float32)


# -- pyctcdecode -----------------------------------------------------------------------------------

CHARACTERS = ["", " ", *LETTERS]


def built(module, model=LM, **options):
    if model is None:
        return module.build_ctcdecoder(CHARACTERS)
    return module.build_ctcdecoder(CHARACTERS, model, WORDS, **options)


@case("pyctcdecode")
def _(module):
    """decode without a language model"""
    return [built(module, None).decode(item, **WIDE) for item in utterances()]


@case("pyctcdecode")
def _(module):
    """decode with a language model"""
    decoder = built(module, alpha=0.5, beta=1.0)
    return [decoder.decode(item, **WIDE) for item in utterances()]


@case("pyctcdecode")
def _(module):
    """decode at the default settings"""
    return [built(module).decode(item) for item in utterances()]


@case("pyctcdecode")
def _(module):
    """score of the best beam"""
    decoder = built(module, alpha=0.7, beta=0.5)
    return [round(decoder.decode_beams(item, **WIDE)[0][-1], 2) for item in utterances()]


@case("pyctcdecode")
def _(module):
    """frames of words"""
    decoder = built(module)
    return [decoder.decode_beams(item, **WIDE)[0][2] for item in utterances()]


CHOICES = [("a", "b"), "", ("c", "d"), " ", ("a", "e"), "", ("b", "d")]


@case("pyctcdecode")
def _(module):
    """sixteen readings of four doubtful letters"""
    beams = built(module, None).decode_beams(said(CHOICES, CHARACTERS, 1 - 1e-9), **WIDE)
    return sorted(beam[0] for beam in beams if beam[-1] > -10)


@case("pyctcdecode")
def _(module):
    """sixteen readings with a language model"""
    beams = built(module).decode_beams(said(CHOICES, CHARACTERS, 1 - 1e-9), **WIDE)
    return len({beam[0] for beam in beams if beam[-2] > -10})


@case("pyctcdecode")
def _(module):
    """hot words"""
    item = said(CHOICES, CHARACTERS)
    decoder = built(module, None)
    words = [["ac", "ab"], ["bd"], ["bd ed"], ["bc", "ad"]]
    return [decoder.decode(item, hotwords=w, hotword_weight=9.0, **WIDE) for w in words]


@case("pyctcdecode")
def _(module):
    """a text in two parts, the state of the model carried over"""
    decoder = built(module, alpha=0.5, beta=1.0)
    answers = []
    first, second, *_ = utterances()
    state = decoder.decode_beams(first, **WIDE)[0][1]
    answers.append(decoder.decode_beams(second, lm_start_state=state, **WIDE)[0][0])
    answers.append(round(decoder.decode_beams(second, lm_start_state=state, **WIDE)[0][-1], 2))
    return answers


@case("pyctcdecode")
def _(module):
    """several language models"""
    kenlm = importlib.import_module("kenlm")
    package = importlib.import_module(module.__name__.removesuffix(".decoder"))
    if package.__name__ == "pyctcdecode":
        package = importlib.import_module("pyctcdecode.language_model")
    models = [
        package.LanguageModel(kenlm.Model(LM), WORDS, alpha=alpha, beta=1.0) for alpha in (0.3, 0.9)
    ]
    both = package.MultiLanguageModel(models)
    start = both.get_start_state()
    alone = [round(both.score(start, word)[0], 3) for word in WORDS]
    alphabet = (
        importlib.import_module("pyctcdecode.alphabet").Alphabet
        if module.__name__ == "pyctcdecode.decoder"
        else module.Alphabet
    )
    labels = alphabet.build_alphabet(CHARACTERS)
    decoder = module.BeamSearchDecoderCTC(labels, both)
    return alone, [decoder.decode(item, **WIDE) for item in utterances()]


@case("pyctcdecode")
def _(module):
    """batches"""
    return built(module).decode_batch(None, list(utterances()), **WIDE)


@case("pyctcdecode")
def _(module):
    """emissions of a wrong width"""
    try:
        built(module, None).decode(np.zeros((5, 3), np.float32))
    except ValueError:
        return "ValueError"
    return "none"


@case("pyctcdecode")
def _(module):
    """special labels"""
    labels = ["", " ", "a", "<s>"]
    decoder = module.build_ctcdecoder(labels)
    return decoder.decode(said(["a", "<s>", "a"], labels), **WIDE)


@case("pyctcdecode")
def _(module):
    """separators in a row"""
    beams = built(module).decode_beams(said([" ", "", "a", " ", "", " ", "b"], CHARACTERS), **WIDE)
    return beams[0][0], round(beams[0][-2], 3)


# -- torchaudio ------------------------------------------------------------------------------------

TOKENS = ["-", "|", *LETTERS]


def audio(module, lexicon=LEXICON, lm=LM, **options):
    return module.ctc_decoder(lexicon, TOKENS, lm=lm, beam_size=500, **options)


def tensors(**options):
    return [torch.from_numpy(item)[None] for item in utterances(**options)]


@case("torchaudio")
def _(module):
    """words, scores and times with a lexicon and a language model"""
    answers = []
    for item in tensors():
        best = audio(module)(item)[0][0]
        answers.append((best.words, round(best.score, 2), best.timesteps.tolist()))
    return answers


@case("torchaudio")
def _(module):
    """types and shapes"""
    (best,) = audio(module)(tensors()[0])[0]
    fields = list(type(best)._fields)
    kinds = (str(best.tokens.dtype), str(best.timesteps.dtype), type(best.score).__name__)
    return fields, kinds, best.tokens.shape == best.timesteps.shape


@case("torchaudio")
def _(module):
    """tokens without a lexicon"""
    decoder = audio(module, None, None)
    return [decoder.idxs_to_tokens(decoder(item)[0][0].tokens) for item in tensors()]


@case("torchaudio")
def _(module):
    """lengths of lists"""
    return [[len(audio(module, nbest=n)(item)[0]) for n in (1, 2, 3)] for item in tensors()]


@case("torchaudio")
def _(module):
    """the utterance in pieces"""
    answers = []
    decoder = audio(module)
    for item in tensors():
        decoder.decode_begin()
        for chunk in item[0].split(5):
            decoder.decode_step(chunk.contiguous())
        decoder.decode_end()
        answers.append(decoder.get_final_hypothesis()[0].words)
    return answers


@case("torchaudio")
def _(module):
    """a language model of one's own"""

    class Model(module.CTCDecoderLM):
        def start(self, start_with_nothing):
            return module.CTCDecoderLMState()

        def score(self, state, usr_token_idx):
            return state.child(usr_token_idx), -0.7

        def finish(self, state):
            return state, -0.1

    decoder = audio(module, lm=Model(), lm_weight=1.5)
    found = [decoder(item)[0][0] for item in tensors()]
    return [(best.words, round(best.score, 2)) for best in found]


@case("torchaudio")
def _(module):
    """emissions that are refused"""
    answers = []
    item = tensors()[0]
    for wrong in (item.double(), item[0], item.transpose(1, 2)):
        try:
            audio(module)(wrong)
        except (ValueError, RuntimeError) as error:
            answers.append((type(error).__name__, str(error)))
    return answers


@case("torchaudio")
def _(module):
    """a last word without silence after it"""
    item = said(["b", "a", "d", "|", "b", "a", "d"], TOKENS)
    return audio(module)(torch.from_numpy(item)[None])[0][0].words


@case("torchaudio")
def _(module):
    """lists without a lexicon have one text once"""
    decoder = audio(module, None, None, nbest=20)
    texts = []
    for item in tensors():
        found = ("".join(decoder.idxs_to_tokens(h.tokens)) for h in decoder(item)[0])
        texts.append([" ".join(text.replace("|", " ").split()) for text in found])
    return [len(set(item)) for item in texts]


@case("torchaudio")
def _(module):
    """spellings that are not the word's own"""
    with tempfile.TemporaryDirectory() as folder:
        lexicon = Path(folder) / "lexicon.txt"
        lexicon.write_text("BAD b a d |\n")
        try:
            module.ctc_decoder(str(lexicon), TOKENS)
        except ValueError:
            return "ValueError"
    return "taken"


# -- kenlm -----------------------------------------------------------------------------------------

SENTENCES = ["", *WORDS, " ".join(WORDS), " ".join(reversed(WORDS)), f"{WORDS[0]} zebra {WORDS[1]}"]


@case("kenlm")
def _(module):
    """score and perplexity"""
    model = module.Model(LM)
    sums = [
        round(model.score(s, bos=b, eos=e), 4) for s in SENTENCES for b in (0, 1) for e in (0, 1)
    ]
    return model.order, sums, [round(model.perplexity(s), 2) for s in SENTENCES]


@case("kenlm")
def _(module):
    """full_scores"""
    model = module.Model(LM)
    return [[(round(p, 4), n, oov) for p, n, oov in model.full_scores(s)] for s in SENTENCES]


@case("kenlm")
def _(module):
    """states"""
    model = module.Model(LM)
    one, two = module.State(), module.State()
    answers = []
    for begin in (model.BeginSentenceWrite, model.NullContextWrite):
        begin(one)
        for word in [*WORDS, "zebra", WORDS[0]]:
            full = model.BaseFullScore(one, word, two)
            value = round(model.BaseScore(one, word, two), 4)
            answers.append((value, full.ngram_length, full.oov, one == two))
            one, two = two, one
    return answers


@case("kenlm")
def _(module):
    """words that are known"""
    return [word in module.Model(LM) for word in [*WORDS, "zebra", "<s>", "</s>"]]


@case("kenlm")
def _(module):
    """the type of an error"""
    try:
        module.Model(LEXICON)
    except OSError as error:
        return type(error).__name__
    return "none"


# -- comparing -------------------------------------------------------------------------------------


def alike(a, b):
    """Whether two answers are equal, numbers to 0.02 or a two-thousandth."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=5e-4, abs_tol=0.02)
    return a == b


def answer(function, module):
    """Our answer, or the error that the case ends with (the peer's cases end with none)."""
    try:
        return function(module)
    except Exception as error:  # an answer too: it is compared
        return f"{type(error).__name__}: {error}"


def compare(name):
    """(the peer's answer, ours), or None where the peer is not installed."""
    peer, function = CASES[name]
    theirs, ours = PEERS[peer]
    try:
        expected = importlib.import_module(theirs)
        if peer == "torchaudio":
            importlib.import_module("flashlight.lib.text.decoder")
            importlib.import_module("flashlight.lib.text.decoder.kenlm")
    except ImportError:
        return None
    return function(expected), answer(function, importlib.import_module(ours))


def main():
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    failed, ran = 0, 0
    for name in CASES:
        if part not in name:
            continue
        pair = compare(name)
        if pair is None:
            print(f"not installed  {name}")
            continue
        ran += 1
        same = alike(*pair)
        wrong = same == (name in DIFFERENT)
        failed += wrong
        verdict = "same" if same else "different, as declared" if not wrong else "DIFFERENT"
        print(f"{'SAME, declared different' if wrong and same else verdict}  {name}")
        if wrong:
            print(f"    peer {pair[0]}\n    ours {pair[1]}")
    print(f"{ran} compared, {failed} wrong")
    return 2 if not ran else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
