"""A forward-only Deep Speech 2 whose weights are set by hand so that it hears the tone language.

Its layers look ahead and keep states as any other's, but only the middle of each window has weight,
so the true text of a recording is known.
"""

import torch
from tone_language import ALPHABET, BINS, RATE

from ctcspeech.audio.features import FeatureConfig, FeatureExtractor
from ctcspeech.model.checkpoint import Checkpoint, save_checkpoint
from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model
from ctcspeech.recognize.checkpoint import CheckpointEmitter


def tone_emitter(lookahead=2, attention=None):
    """attention: the configuration of an attention decoder with random weights, beside it."""
    features = FeatureExtractor(
        FeatureConfig(kind="spectrogram", sample_rate=RATE, energy=False, normalization="none")
    )
    tones = len(BINS)
    config = DeepSpeech2Config(
        convolution="1d",
        channels=[tones],
        time_width=[5],
        time_stride=[2],
        recurrent="rnn",
        layers=1,
        hidden=tones,
        bidirectional=False,
        lookahead=lookahead,
        batch_norm=False,
        attention=attention,
    )
    model = build_model(config, features.num_features, len(ALPHABET))
    cell = model.recurrent[0].cell
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("attention."):
                parameter.zero_()
        for row, bin in enumerate(BINS.values()):
            model.convolutions[0].convolution.weight[row, bin, 2] = 1.0
        model.convolutions[0].convolution.bias.fill_(-2.0)  # what is not loud is nothing
        cell.weight_ih_l0.copy_(torch.eye(tones))
        if model.row is not None:
            model.row.convolution.weight[:, 0, 0] = 1.0
        model.output.bias.fill_(-4.0)
        model.output.bias[0] = 8.0
        model.output.weight[1:] = 6.0 * torch.eye(tones)
    return CheckpointEmitter(model, features, ALPHABET)


def save_tones(folder):
    """The model as a checkpoint in a folder; returns the folder."""
    emitter = tone_emitter()
    save_checkpoint(folder, Checkpoint(emitter.model, emitter.features, emitter.alphabet))
    return folder
