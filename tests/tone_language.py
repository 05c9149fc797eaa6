"""A language of tones, and a model that hears it: recordings whose true text is known.

Each letter is a tone of 60 ms, a word its letters with 40 ms between them, the space a tone too.
`ToneModel` names the tone of each frame by its strongest frequency and knows nothing of other
frames. It serves to test what surrounds a model; there is nothing trained in it.
"""

import numpy as np
import soundfile
import torch
from torch import nn

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.model.deepspeech import AcousticModel
from ctcspeech.recognize.checkpoint import CheckpointEmitter
from ctcspeech.recognize.recognizer import Recognizer
from ctcspeech.text.alphabet import Alphabet

RATE = 8000
ALPHABET = Alphabet(["<blank>", " ", "a", "b", "c", "d", "e"])
BINS = {1: 8, 2: 14, 3: 20, 4: 26, 5: 32, 6: 38}  # label to bin of the 160-point spectrum, 50 Hz


def say(text, generator, gap=0.04, noise=1e-3):
    """Samples (S,) float32 at RATE."""
    parts = []
    for label in ALPHABET.encode(text):
        time = np.arange(int(0.06 * RATE)) / RATE
        parts.append(0.3 * np.sin(2 * np.pi * 50 * BINS[label] * time))
        parts.append(np.zeros(int(gap * RATE)))
    samples = np.concatenate([np.zeros(int(0.02 * RATE)), *parts])
    return (samples + noise * generator.standard_normal(len(samples))).astype(np.float32)


def hush(seconds, generator, noise=1e-3):
    return (noise * generator.standard_normal(int(seconds * RATE))).astype(np.float32)


def words(count, generator):
    return [
        "".join(generator.choice(list("abcde"), size=generator.integers(1, 5)))
        for _ in range(count)
    ]


class ToneModel(AcousticModel):
    def __init__(self, subsampling=2):
        super().__init__()
        self.num_features, self.num_labels = 81, len(ALPHABET)
        self.subsampling, self.lookahead, self.receptive_field = subsampling, None, 1
        self.output = nn.Linear(1, len(ALPHABET))  # unused
        self.batches = []

    def forward(self, features, lengths):
        self.batches.append(tuple(features.shape))
        features = features[:, :: self.subsampling]  # (N, T', F): ln of the power
        tones = torch.stack([features[..., BINS[k]] for k in range(1, 7)], dim=-1)
        loud = tones.amax(-1, keepdim=True) > 2.0
        logits = torch.cat([torch.full_like(tones[..., :1], 8.0), tones * 2.0], dim=-1)
        logits[..., 1:] = torch.where(loud, logits[..., 1:], torch.full_like(tones, -4.0))
        return logits, self.output_lengths(lengths)


def tone_recognizer(subsampling=2, **options):
    config = FeatureConfig(kind="spectrogram", sample_rate=RATE, energy=False, normalization="none")
    features = FeatureExtractor(config)
    emitter = CheckpointEmitter(ToneModel(subsampling), features, ALPHABET)
    return Recognizer(emitter, **options)


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path
