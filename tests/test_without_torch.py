"""Recognition, alignment, language models, scores and the loss where the extras are not installed.

The packages of the extras are hidden from a new process; .ci/run does the same in an environment
that has them not.
"""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from test_export import MODELS, RATE, checkpoint_of, saved, signals

from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.exchange.export import export

HIDE = """
import sys
HIDDEN = {"torch", "safetensors", "tensorboard", "onnx", "matplotlib", "optuna", "sentencepiece",
          "huggingface_hub", "transformers", "torchaudio", "tokenizers"}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""


def run(code, *arguments):
    command = [sys.executable, "-c", HIDE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def verb(*arguments):
    return run("from ctcspeech.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, what was exported from it, a recording and its manifest."""
    folder = tmp_path_factory.mktemp("without")
    model = saved(folder, checkpoint_of(MODELS["gru"], num_bins=20))
    export(model, folder / "out")
    soundfile.write(folder / "a.wav", signals()[-1], RATE)
    write_manifest(folder / "m.jsonl", [Utterance(folder / "a.wav", 1.0, "ab cd")])
    return folder


def test_transcribes_as_with_torch(place):
    from ctcspeech.recognize.recognizer import Recognizer

    done = verb("transcribe", place / "out", place / "a.wav")
    assert done.returncode == 0, done.stderr
    (wanted,) = Recognizer.load(place / "model").transcribe([place / "a.wav"])
    assert done.stdout.strip() == wanted.text


def test_aligns_scores_and_builds_language_models(place):
    done = verb("align", place / "out", place / "a.wav", "--text-string", "ab", "--format", "ctm")
    assert done.returncode == 0 and done.stdout.split()[-2] == "ab", done.stderr
    done = verb("evaluate", place / "out", place / "m.jsonl")
    assert done.returncode == 0 and "errors in 2" in done.stdout, done.stderr
    (place / "text.txt").write_text("ab cd\n" * 9 + "cd ab ab\n" * 5)
    built = ("lm", "build", place / "text.txt", "--order", 2, "--discount-fallback", "0.5,1,1.5")
    done = verb(*built, "-o", place / "lm.bin")
    assert done.returncode == 0, done.stderr
    done = verb("transcribe", place / "out", place / "a.wav", "--lm", place / "lm.bin")
    assert done.returncode == 0, done.stderr


def test_the_loss_takes_numpy_arrays():
    code = """
import numpy as np
from ctcspeech.ctc import loss_and_grad
logits = np.zeros((3, 1, 2), np.float32)
loss, gradient = loss_and_grad(logits, np.array([[1]]), [3], [1])[:2]
print(float(np.asarray(loss).ravel()[0]), np.asarray(gradient).shape)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    value, shape = done.stdout.strip().split(" ", 1)
    # Six of the eight paths of three frames say "a": all but blanks alone and a-blank-a.
    assert float(value) == pytest.approx(-np.log(6 / 8)) and shape == "(3, 1, 2)"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["transcribe", "{}/model", "{}/a.wav"], "train"),
        (["export", "{}/model", "{}/other"], "train"),
        (["train", "x.toml", "--run", "{}/run"], "train"),
        (["transcribe", "{}/out", "{}/a.wav", "--device", "cuda"], "train"),
        (["plot", "{}/a.wav", "--model", "{}/out"], "plot"),
        (["transcribe", "hf:owner/name", "{}/a.wav"], "hub"),
        (["transcribe", "torchaudio:WAV2VEC2_ASR_BASE_960H", "{}/a.wav"], "torchaudio"),
    ],
)
def test_what_is_missing_is_named(place, arguments, extra):
    done = verb(*(argument.format(place) for argument in arguments))
    assert done.returncode == 1, done.stdout
    assert f"pip install 'ctcspeech[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_public_names_say_what_is_missing():
    code = """
import ctcspeech
light = ["align_text", "Alphabet", "BeamDecoder", "Emissions", "FeatureConfig", "GreedyDecoder",
         "LanguageModel", "Recognizer", "Transcript", "forced_align", "read_manifest",
         "split_text", "word_error_rate"]
for name in light:
    getattr(ctcspeech, name)
for name in ("CTCLoss", "FeatureExtractor", "SpeechDataset", "build_model", "load_checkpoint"):
    try:
        getattr(ctcspeech, name)
    except ctcspeech.CtcSpeechError as error:
        assert "ctcspeech[train]" in str(error), error
    else:
        raise AssertionError(name)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_transcribing_loads_only_what_it_uses(place):
    # Each of these would be paid for before the first word; the recording has the model's rate.
    code = """
from ctcspeech.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
unused = {"rapidfuzz", "rich", "soxr", "xml.etree.ElementTree", "ctcspeech.pen"} & set(sys.modules)
assert not unused, unused
"""
    done = run(code, "transcribe", place / "out", place / "a.wav")
    assert done.returncode == 0, done.stderr
