"""Writes golden.json: what pyctcdecode and torchaudio's ctc_decoder answer on small emissions.

    python generate.py

needs pyctcdecode 0.5.0, kenlm, flashlight-text 0.0.7 and torchaudio 2.11 (with torch), none of
which the tests need. The emissions are drawn here from a seed and stored in golden.json as well.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pyctcdecode import build_ctcdecoder
from torchaudio.models.decoder import ctc_decoder

FOLDER = Path(__file__).parent
CHARACTERS = ["", " ", "a", "b", "c", "d", "e"]
PIECES = ["<unk>", "▁ba", "▁ca", "d", "b", "▁de", "ed", "▁a", "e", ""]
WORDS = ["bad", "cab", "dad", "deed", "abe", "a", "bead"]
TEXTS = ["bad cab", "dad a deed", "abe bead cab bad", "a bed cab"]


def emissions(labels, tokens, seed, noise=1.0, gain=6.0):
    """Log-probabilities (T, C): two frames a label, one of blank, noise over all."""
    generator = np.random.default_rng(seed)
    blank = labels.index("")
    path = [k for token in tokens for k in (token, token, blank)]
    logits = generator.normal(0, noise, (len(path), len(labels)))
    logits[np.arange(len(path)), path] += gain
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.round(logits, 4).astype(np.float32)


def pyctcdecode_cases(kenlm, spoken, pieces):
    # So narrow that no hypothesis ends in a space, which pyctcdecode scores as an unknown word.
    wide = {"beam_width": 200, "beam_prune_logp": -20.0, "token_min_logp": -6.0}
    cases = []
    for name, labels, logits, build, call in [
        ("no model", CHARACTERS, spoken, {}, {}),
        ("model", CHARACTERS, spoken, {"alpha": 0.6, "beta": 1.0}, {}),
        ("words", CHARACTERS, spoken, {"unigrams": WORDS, "alpha": 0.4, "beta": 0.5}, {}),
        ("unknown", CHARACTERS, spoken, {"alpha": 0.6, "beta": 1.0, "unk_score_offset": -1.0}, {}),
        ("no boundary", CHARACTERS, spoken, {"alpha": 0.6, "lm_score_boundary": False}, {}),
        ("hot", CHARACTERS, spoken, {"alpha": 0.6}, {"hotwords": ["dad", "deed a"]}),
        ("pieces", PIECES, pieces, {"alpha": 0.3, "beta": 0.5}, {}),
    ]:
        path = None if name == "no model" else kenlm
        decoder = build_ctcdecoder(labels, path, **build)
        results = []
        for item in logits:
            beams = decoder.decode_beams(item, **wide, **call)[:5]
            results.append([[b[0], [[w, *f] for w, f in b[2]], b[3], b[4]] for b in beams])
        cases.append({"name": name, "build": build, "call": {**wide, **call}, "beams": results})
    return cases


def torchaudio_cases(kenlm, spoken):
    tokens = ["-", "|", "a", "b", "c", "d", "e"]
    lexicon = FOLDER / "lexicon.txt"
    spellings = [f"{word} {' '.join(word)} |" for word in WORDS]
    lexicon.write_text("\n".join(spellings) + "\n")
    cases = []
    for name, arguments in [
        ("no lexicon", {"lexicon": None}),
        ("no lexicon, sums", {"lexicon": None, "log_add": True, "sil_score": -0.5}),
        ("lexicon", {"lexicon": "lexicon.txt", "word_score": 0.7}),
        ("model", {"lexicon": "lexicon.txt", "lm": kenlm, "lm_weight": 1.5, "word_score": 1.0}),
        (
            "model, sums",
            {"lexicon": "lexicon.txt", "lm": kenlm, "lm_weight": 1.5, "log_add": True},
        ),
    ]:
        call = dict(arguments)
        if call["lexicon"]:
            call["lexicon"] = str(lexicon)
        decoder = ctc_decoder(tokens=tokens, nbest=3, beam_size=500, beam_threshold=50, **call)
        results = []
        for item in spoken:
            found = decoder(torch.from_numpy(item)[None])[0]
            results.append(
                [[h.tokens.tolist(), h.words, h.score, h.timesteps.tolist()] for h in found]
            )
        shown = {**arguments, **({"lm": "lm.arpa"} if "lm" in arguments else {})}
        cases.append({"name": name, "build": shown, "hypotheses": results})
    return cases


def main():
    kenlm = str(FOLDER / "lm.arpa")
    index = {label: i for i, label in enumerate(CHARACTERS)}
    spoken = [
        emissions(CHARACTERS, [index[c] for c in text], seed) for seed, text in enumerate(TEXTS)
    ]
    ends = [
        emissions(CHARACTERS, [index[c] for c in text + " "], 7 + i) for i, text in enumerate(TEXTS)
    ]
    pieces = [emissions(PIECES, tokens, 20 + i) for i, tokens in enumerate([[1, 3, 2, 4], [5, 6]])]
    values = {
        "characters": CHARACTERS,
        "pieces": PIECES,
        "spoken": [item.tolist() for item in spoken],
        "spoken_pieces": [item.tolist() for item in pieces],
        "ending": [item.tolist() for item in ends],
        "pyctcdecode": pyctcdecode_cases(kenlm, spoken, pieces),
        "torchaudio": torchaudio_cases(kenlm, ends),
    }
    text = json.dumps(values, ensure_ascii=False)
    (FOLDER / "golden.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
