"""Programs of torch.export against the model itself, on other batches than the one traced."""

import io

import pytest
import torch
from test_export import ALPHABET, MODELS, ONE, checkpoint_of
from torch.export import Dim

from ctcspeech.model.deepspeech import DeepSpeech2Config, build_model

pytestmark = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="this torch cannot tell that it exports"
)
# Each layer, either direction, summed and joined; "gru" is exported with its features below.
NAMES = [name for name in MODELS if name not in ("gru", "2d", "no batch norm")]
SYMBOLS = DeepSpeech2Config(**ONE, layers=1, symbols=7, embedding=4)


class FromSamples(torch.nn.Module):
    """Features and model as one."""

    def __init__(self, checkpoint):
        super().__init__()
        self.features, self.model = checkpoint.features, checkpoint.model

    def forward(self, samples, lengths):
        return self.model(*self.features(samples, lengths))


def exported(module, inputs, lengths, shortest, strict=False):
    batch, length = Dim("batch"), Dim("length", min=shortest)
    shapes = ({0: batch, 1: length}, {0: batch})
    with torch.no_grad():
        return torch.export.export(module, (inputs, lengths), dynamic_shapes=shapes, strict=strict)


@torch.no_grad()
def assert_same(program, module, make):
    """The program sees frames past the longest utterance, of whatever value: there it says 0."""
    module_of = program.module()
    for frames, lengths in ((61, [61, 2, 33]), (9, [9]), (44, [4, 40, 1, 9])):
        lengths = torch.tensor(lengths) * make.unit
        inputs = make(len(lengths), frames * make.unit)
        wanted, counts = module(inputs, lengths)
        found, found_counts = module_of(inputs, lengths)
        assert torch.equal(found_counts, counts)
        longest = int(counts.max())
        assert found.shape[1] >= longest == wanted.shape[1]
        torch.testing.assert_close(found[:, :longest], wanted, atol=2e-6, rtol=1e-5)
        assert not found[:, longest:].any()
        assert wanted.std() > 0.01


def features_of(size):
    def make(count, frames):
        return torch.randn(count, frames, size)

    make.unit = 1
    return make


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture(name):
    model = checkpoint_of(MODELS[name], num_bins=20).model
    make = features_of(model.num_features)
    program = exported(model, make(2, 30), torch.tensor([30, 17]), model.subsampling + 1)
    assert_same(program, model, make)


def test_symbols():
    torch.manual_seed(0)
    model = build_model(SYMBOLS, 1, len(ALPHABET)).eval()

    def make(count, frames):
        return torch.randint(0, 7, (count, frames, 1)).float()

    make.unit = 1
    program = exported(model, make(2, 30), torch.tensor([30, 17]), 3)
    assert_same(program, model, make)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load
@pytest.mark.parametrize("strict", [False, True])
def test_from_samples_saved_and_loaded(strict):
    """From the waveform on, as a file that runs without this package's code."""
    module = FromSamples(checkpoint_of(MODELS["gru"], num_bins=20)).eval()

    def make(count, samples):
        return 0.1 * torch.randn(count, samples)

    make.unit = 240
    program = exported(module, make(2, 4000), torch.tensor([4000, 2200]), 480, strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert_same(torch.export.load(file), module, make)


def test_training_mode_is_refused():
    model = checkpoint_of(MODELS["gru"], num_bins=20).model.train()
    make = features_of(model.num_features)
    with pytest.raises(ValueError, match="call model.eval\\(\\) before torch.export"):
        exported(model, make(2, 30), torch.tensor([30, 17]), 3)
