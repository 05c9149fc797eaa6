"""Runs the beam decoders of other packages for decoder.py, in an environment of their own.

    python decoder_peers.py jobs.json

needs numpy and those of pyctcdecode, kenlm, ctc-beam-decoder, flashlight-text and torchaudio that
are to be measured, not the environment of decoder.py. Writes one line of JSON for each job.
"""

import json
import math
import sys
import time

import numpy as np

LN10 = math.log(10)


class PyCtcDecode:
    def __init__(self, job, labels, words):
        from pyctcdecode import build_ctcdecoder

        names = ["", *labels[1:]]
        self.decoder = build_ctcdecoder(
            names, job["kenlm"], words, alpha=job["lm_weight"], beta=job["word_score"]
        )
        self.arguments = {
            "beam_width": job["beam"],
            "beam_prune_logp": -job["threshold"],
            "token_min_logp": job["minimum"],
        }

    def __call__(self, emissions):
        return self.decoder.decode(emissions, **self.arguments)


class CtcBeamDecoder(PyCtcDecode):
    def __init__(self, job, labels, words):
        from ctc_beam_decoder import build_ctcdecoder

        names = ["", *labels[1:]]
        self.decoder = build_ctcdecoder(
            names, job["kenlm"], words, alpha=job["lm_weight"], beta=job["word_score"]
        )
        self.arguments = {
            "beam_width": job["beam"],
            "beam_prune_logp": -job["threshold"],
            "token_min_logp": job["minimum"],
        }


def with_separator(emissions, separator):
    """A last frame that says the separator: flashlight drops a last word that has none after it."""
    frame = np.full((1, emissions.shape[1]), -20, np.float32)
    frame[0, separator] = 0
    return np.ascontiguousarray(np.concatenate([emissions, frame]))


class Flashlight:
    """Its language model speaks log10, so its weight is lm_weight * ln 10. A spelling ends in the
    separator."""

    def __init__(self, job, labels, words):
        from flashlight.lib.text.decoder import (
            CriterionType,
            LexiconDecoder,
            LexiconDecoderOptions,
            SmearingMode,
            Trie,
        )
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        tokens, vocabulary = Dictionary(), Dictionary()
        for label in labels:
            tokens.add_entry(label)
        for word in words:
            vocabulary.add_entry(word)
        vocabulary.add_entry("<unk>")
        model = KenLM(job["kenlm"], vocabulary)
        silence = labels.index(" ")
        trie = Trie(tokens.index_size(), silence)
        start = model.start(False)
        index = {label: i for i, label in enumerate(labels)}
        for i, word in enumerate(words):
            _, score = model.score(start, i)
            trie.insert([*(index[c] for c in word), silence], i, score)
        trie.smear(SmearingMode.MAX)
        options = LexiconDecoderOptions(
            beam_size=job["beam"],
            beam_size_token=job.get("tokens", len(labels)),
            beam_threshold=job["threshold"],
            lm_weight=job["lm_weight"] * LN10,
            word_score=job["word_score"],
            unk_score=-math.inf,
            sil_score=0,
            log_add=job.get("log_add", False),
            criterion_type=CriterionType.CTC,
        )
        unknown = vocabulary.get_index("<unk>")
        self.decoder = LexiconDecoder(options, trie, model, silence, 0, unknown, [], False)
        self.separator = silence
        self.kept = (tokens, vocabulary, model, trie)
        self.names = words

    def __call__(self, emissions):
        emissions = with_separator(emissions, self.separator)
        results = self.decoder.decode(emissions.ctypes.data, *emissions.shape)
        return " ".join(self.names[w] for w in results[0].words if w >= 0)


class Torchaudio:
    def __init__(self, job, labels, words):
        import torch
        from torchaudio.models.decoder import ctc_decoder

        torch.set_num_threads(1)
        self.torch = torch
        names = ["-", "|", *labels[2:]]  # the space is called |
        self.decoder = ctc_decoder(
            lexicon=job["lexicon"],
            tokens=names,
            lm=job["kenlm"],
            nbest=1,
            beam_size=job["beam"],
            beam_threshold=job["threshold"],
            lm_weight=job["lm_weight"] * LN10,
            word_score=job["word_score"],
            log_add=job.get("log_add", False),
            blank_token="-",
            sil_token="|",
            unk_word="<unk>",
        )

    def __call__(self, emissions):
        result = self.decoder(self.torch.from_numpy(with_separator(emissions, 1))[None])
        return " ".join(result[0][0].words)


PEERS = {
    "pyctcdecode": PyCtcDecode,
    "ctc-beam-decoder": CtcBeamDecoder,
    "flashlight-text": Flashlight,
    "torchaudio": Torchaudio,
}


def run(job, labels, words, emissions):
    times, texts = [], []
    for _ in range(job["repeats"]):
        decoder = PEERS[job["peer"]](job, labels, words)  # has not met what is timed
        warm = [decoder(item) for item in emissions[::2]]
        wall, cpu = time.perf_counter(), time.process_time()
        timed = [decoder(item) for item in emissions[1::2]]
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
        texts = [pair for both in zip(warm, [*timed, ""], strict=False) for pair in both]
        texts = texts[: len(emissions)]
        if times[0][0] > 2:
            break  # slow enough to be measured once
    return {**job, "cpu": [t[0] for t in times], "wall": [t[1] for t in times], "texts": texts}


def main():
    with open(sys.argv[1]) as file:
        request = json.load(file)
    stored = np.load(request["emissions"])
    labels = [str(label) for label in stored["labels"]]
    emissions = [np.ascontiguousarray(stored[f"e{i}"]) for i in range(request["utterances"])]
    missing = set()
    for job in request["jobs"]:
        if job["peer"] in missing:
            continue
        try:
            answer = run(job, labels, request["words"], emissions)
        except ImportError as error:
            missing.add(job["peer"])
            answer = {**job, "error": f"cannot be imported: {error}"}
        print("RESULT " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
