"""pyctcdecode's interface: the same calls, arguments and result types, by this package's search.

    from ctcspeech.compat.pyctcdecode import build_ctcdecoder    # was: from pyctcdecode import ...

    decoder = build_ctcdecoder(labels, "lm.arpa", alpha=0.5, beta=1.0)
    text = decoder.decode(logits)                                # (T, C)

How its parameters map (natural logarithms; LN10 = ln 10):

    alpha               lm_weight; pyctcdecode turns KenLM's log10 into natural logarithms itself
    beta                word_score
    unk_score_offset    a log10 probability that alpha weighs: unk_score = alpha LN10 offset
    beam_prune_logp     -beam_threshold
    hotwords            each word of each phrase is a hot word of `hotword_weight`
    lm_score_boundary   whether the language model sees <s> and </s>

What differs, on purpose:

- The search is another one, which sums over all labellings of a text and recombines what the
  language model cannot tell apart. Labels below `token_min_logp` are not tried, the blank included.
- Special labels (<s>, [CLS]) are never written. A trailing space is not one more unknown word.
- `unigrams` limits the known words to those also in the model; without it all the model's are.
- `prune_history` has no effect: histories that the language model cannot tell apart are pruned for
  a single text and kept for lists of beams. A word's frames are those of the best alignment.
- A pool is accepted and not used: batches are decoded by threads.
- A model of one's own (AbstractLanguageModel) is asked for whole words only.
- A language model's file is read by this package: ARPA files, its own binaries, KenLM's.

`install()` makes the name `pyctcdecode` mean this module, for libraries that import it themselves,
such as the Wav2Vec2ProcessorWithLM of transformers.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from ctcspeech.compat.pyctcdecode.alphabet import (
    BLANK_TOKEN_PTN,
    BPE_TOKEN,
    UNK_BPE_TOKEN,
    UNK_TOKEN,
    UNK_TOKEN_PTN,
    Alphabet,
)
from ctcspeech.compat.pyctcdecode.decoder import (
    DEFAULT_BEAM_WIDTH,
    DEFAULT_MIN_TOKEN_LOGP,
    DEFAULT_PRUNE_BEAMS,
    DEFAULT_PRUNE_LOGP,
    MIN_TOKEN_CLIP_P,
    BeamSearchDecoderCTC,
    Frames,
    OutputBeam,
    OutputBeamMPSafe,
    build_ctcdecoder,
)
from ctcspeech.compat.pyctcdecode.language_model import (
    DEFAULT_ALPHA,
    DEFAULT_BETA,
    DEFAULT_HOTWORD_WEIGHT,
    DEFAULT_SCORE_LM_BOUNDARY,
    DEFAULT_UNK_LOGP_OFFSET,
    AbstractLanguageModel,
    HotwordScorer,
    LanguageModel,
    MultiLanguageModel,
    load_unigram_set_from_arpa,
)

__all__ = [
    "BLANK_TOKEN_PTN",
    "BPE_TOKEN",
    "DEFAULT_ALPHA",
    "DEFAULT_BEAM_WIDTH",
    "DEFAULT_BETA",
    "DEFAULT_HOTWORD_WEIGHT",
    "DEFAULT_MIN_TOKEN_LOGP",
    "DEFAULT_PRUNE_BEAMS",
    "DEFAULT_PRUNE_LOGP",
    "DEFAULT_SCORE_LM_BOUNDARY",
    "DEFAULT_UNK_LOGP_OFFSET",
    "MIN_TOKEN_CLIP_P",
    "UNK_BPE_TOKEN",
    "UNK_TOKEN",
    "UNK_TOKEN_PTN",
    "AbstractLanguageModel",
    "Alphabet",
    "BeamSearchDecoderCTC",
    "Frames",
    "HotwordScorer",
    "LanguageModel",
    "MultiLanguageModel",
    "OutputBeam",
    "OutputBeamMPSafe",
    "build_ctcdecoder",
    "install",
    "load_unigram_set_from_arpa",
]


def install() -> None:
    """Makes `import pyctcdecode` give this module, in this process.

    Call it before a library imports pyctcdecode, or asks whether it is there. Where the package
    kenlm is not installed, its name means `ctcspeech.compat.kenlm`, since transformers asks for
    both before it loads a processor. Raises RuntimeError if the real pyctcdecode is imported
    already.
    """
    this = sys.modules[__name__]
    known = sys.modules.get("pyctcdecode")
    if known is not None and getattr(known, "build_ctcdecoder", None) is not build_ctcdecoder:
        raise RuntimeError("pyctcdecode is imported already; call install() before that")
    for part in ("", ".alphabet", ".constants", ".decoder", ".language_model"):
        name = "pyctcdecode" + part
        module = ModuleType(name, this.__doc__)
        module.__dict__.update({k: v for k, v in vars(this).items() if not k.startswith("__")})
        module.__spec__ = ModuleSpec(name, None, is_package=not part)
        module.__path__ = []
        module.__version__ = "0.5.0"  # type: ignore[attr-defined]  # whose interface it is
        sys.modules[name] = module
        if part:
            setattr(sys.modules["pyctcdecode"], part[1:], module)
    if "kenlm" not in sys.modules and importlib.util.find_spec("kenlm") is None:
        from ctcspeech.compat import kenlm

        stand_in = ModuleType("kenlm", kenlm.__doc__)
        stand_in.__dict__.update({k: v for k, v in vars(kenlm).items() if not k.startswith("__")})
        stand_in.__spec__ = ModuleSpec("kenlm", None)
        sys.modules["kenlm"] = stand_in
