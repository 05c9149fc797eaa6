"""ONNX models in other toolkits' contracts: tiny graphs, made on the spot, with those toolkits' own
front ends (or their wheels) as witnesses; and files that are no CTC models, or hostile."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_numpy_features import speech_like

from ctcspeech.errors import ModelError
from ctcspeech.exchange.graph import Graph
from ctcspeech.exchange.labels import alphabet_of, read_labels
from ctcspeech.exchange.onnx_model import OnnxEmitter
from ctcspeech.recognize.recognizer import Recognizer

TOKENS = ["<blk>", "▁", "a", "▁b", "cd", "e", "▁fg"]
BINS, STEP = 80, 4


def write_tokens(folder, tokens=TOKENS):
    lines = [f"{token} {number}" for number, token in enumerate(tokens)]
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n")


def weights():
    return np.random.default_rng(1).normal(0, 0.3, (BINS, len(TOKENS))).astype(np.float32)


def features_model(family, metadata):
    """Every fourth frame of features times a matrix: (N, T, F) or NeMo's (N, F, T) in."""
    graph = Graph()
    nemo = family == "nemo"
    first, second = ("audio_signal", "length") if nemo else ("x", "x_lens")
    rows = graph.op("Transpose", first, perm=[0, 2, 1]) if nemo else first
    end = graph.integers(np.iinfo(np.int64).max)
    rows = graph.op("Slice", rows, graph.integers(0), end, graph.integers(1), graph.integers(STEP))
    scores = graph.op("MatMul", rows, graph.constant(weights()))
    scores = graph.op("LogSoftmax", scores, axis=-1)
    graph.rename(scores, "logprobs" if nemo else "log_probs")
    shape = ["N", BINS, "T"] if nemo else ["N", "T", BINS]
    inputs = [(first, np.float32, shape), (second, np.int64, ["N"])]
    outputs = [("logprobs" if nemo else "log_probs", np.float32, ["N", "T2", len(TOKENS)])]
    if not nemo:
        graph.rename(graph.ceil_div(second, STEP), "log_probs_len")
        outputs.append(("log_probs_len", np.int64, ["N"]))
    return graph.model(inputs, outputs, metadata)


NEMO = {
    "model_type": "EncDecCTCModelBPE",
    "vocab_size": str(len(TOKENS)),
    "subsampling_factor": str(STEP),
    "normalize_type": "per_feature",
}
ZIPFORMER = {"model_type": "zipformer2_ctc", "model_author": "k2-fsa"}
WENET = {"model_author": "wenet", "vocab_size": "7", "subsampling_factor": str(STEP)}


def folder_of(tmp_path, family, metadata):
    onnx.save(features_model(family, metadata), tmp_path / "model.onnx")
    write_tokens(tmp_path)
    return tmp_path


def expected(features):
    scores = features[::STEP] @ weights()
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("family", "metadata", "scale"), [("zipformer", ZIPFORMER, 1), ("wenet", WENET, 32768)]
)
def test_kaldi_families_hear_kaldis_features(tmp_path, family, metadata, scale):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    import torch

    emitter = OnnxEmitter.load(folder_of(tmp_path, family, metadata))
    assert emitter.contract.family == family
    assert (emitter.sample_rate, emitter.frame_inputs, emitter.blank) == (16000, 640, 0)
    samples = speech_like(20000, 3)
    features = kaldi.fbank(
        torch.from_numpy(samples)[None] * scale, num_mel_bins=80, high_freq=-400.0,
        snip_edges=False,
    ).numpy()  # fmt: skip
    (found,) = emitter.compute([samples])
    assert np.abs(found - expected(features)).mean() < 1e-3
    assert emitter.padding_changes_output and emitter.longest_input


# -- what sherpa-onnx hears, told by its labels -------------------------------------------------

LEVELS = 256


def telling_model(family, index, digit, low, span, normalize):
    """Frame t says, as label 1 + byte + 256 (t mod 2), one byte of one number of its input: of
    feature `index`, or of sample 320 t + `index`. The number is (value - low) / span, below 1."""
    graph = Graph()
    first, second, shape = {
        "nemo": ("audio_signal", "length", ["N", BINS, "T"]),
        "omnilingual": ("x", "", ["N", "S"]),
    }.get(family, ("x", "x_lens", ["N", "T", BINS]))
    if family == "omnilingual":
        end = graph.integers(np.iinfo(np.int64).max)
        start, axes, steps = graph.integers(index), graph.integers(1), graph.integers(320)
        row = graph.op("Slice", first, start, end, axes, steps)
    else:
        axis = 1 if family == "nemo" else 2
        row = graph.op("Gather", first, graph.constant(np.int64(index)), axis=axis)  # (N, T)
    share = graph.op("Sub", row, graph.constant(np.float32(low)))
    share = graph.op("Mul", share, graph.constant(np.float32(LEVELS**3 / span)))
    number = graph.op("Cast", graph.op("Floor", share), to=TensorProto.INT64)
    levels = graph.constant(np.int64(LEVELS))
    byte = graph.op("Div", number, graph.constant(np.int64(LEVELS**digit)))
    byte = graph.op("Mod", byte, levels)
    odd = graph.op("Mod", graph.range(graph.size(row, 1)), graph.constant(np.int64(2)))
    label = graph.op("Add", byte, graph.op("Mul", odd, levels))
    label = graph.op("Add", label, graph.constant(np.int64(1)))
    classes = 2 * LEVELS + 1
    values = graph.constant(np.array([-20.0, 0.0], np.float32))
    scores = graph.op("OneHot", label, graph.constant(np.int64(classes)), values, axis=-1)
    graph.rename(scores, "logprobs")
    inputs = [(first, np.float32, shape)]
    outputs = [("logprobs", np.float32, ["N", "T2", classes])]
    if second:
        inputs.append((second, np.int64, ["N"]))
        graph.rename(second, "counts")
        outputs.append(("counts", np.int64, ["N"]))
    metadata = {"vocab_size": str(classes), "subsampling_factor": "1", "normalize_type": normalize}
    return graph.model(inputs, outputs, metadata)


def heard(folder, family, samples, indices, low, span, normalize=""):
    """(T, len(indices)): what the wheel's front end gives a model of this family."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    (folder / "tokens.txt").write_text(
        "<blk> 0\n" + "".join(f"k{k}_ {k}\n" for k in range(1, 2 * LEVELS + 1))
    )
    name = "from_omnilingual_asr_ctc" if family == "omnilingual" else f"from_{family}_ctc"
    columns = []
    for index in indices:
        total = 0
        for digit in range(3):
            file = folder / "tells.onnx"
            onnx.save(telling_model(family, index, digit, low, span, normalize), file)
            recognizer = getattr(sherpa_onnx.OfflineRecognizer, name)(
                model=str(file), tokens=str(folder / "tokens.txt")
            )
            stream = recognizer.create_stream()
            stream.accept_waveform(16000, samples)
            recognizer.decode_stream(stream)
            labels = [int(token.strip("k_")) for token in stream.result.tokens]
            total = total + (np.array(labels) - 1) % LEVELS * LEVELS**digit
        columns.append(total / LEVELS**3 * span + low)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(
    ("family", "normalize", "low", "span"),
    [("nemo", "per_feature", -8, 16), ("nemo", "", -40, 80), ("zipformer", "", -40, 80)],
)
def test_features_are_those_that_sherpa_onnx_hears(tmp_path, family, normalize, low, span):
    metadata = {**NEMO, "normalize_type": normalize} if family == "nemo" else ZIPFORMER
    emitter = OnnxEmitter.load(folder_of(tmp_path, family, metadata))
    bins = [0, 7, 33, 79]
    for seed, length in ((0, 16000), (1, 9973), (2, 8081)):
        samples = speech_like(length, seed, noise=0.01)
        samples[1000:3000] *= 1e-4  # where floors count
        found = heard(tmp_path, family, samples, bins, low, span, normalize)
        np.testing.assert_allclose(emitter.contract.prepare(samples)[:, bins], found, atol=1e-3)


def test_wenets_features_are_those_that_sherpa_onnx_hears(tmp_path):
    emitter = OnnxEmitter.load(folder_of(tmp_path, "wenet", WENET))
    samples = 0.5 * speech_like(16000, 0, noise=0.05)
    found = heard(tmp_path, "wenet", samples, [5, 20, 50], -40, 80)
    difference = np.abs(emitter.contract.prepare(samples)[:, [5, 20, 50]] - found)
    # It adds noise of deviation 1 to samples of 16 bits, another one for each byte that is told.
    assert np.median(difference) < 0.002 and np.quantile(difference, 0.9) < 0.01


def test_omnilinguals_samples_are_those_that_sherpa_onnx_hears(tmp_path):
    model, _ = samples_model(5, "x")
    onnx.save(model, tmp_path / "model.onnx")
    write_tokens(tmp_path, ["<s>", "<pad>", "</s>", "a", "▁"])
    emitter = OnnxEmitter.load(tmp_path)
    samples = 0.05 + 0.03 * speech_like(8000, 1)  # quiet: what is added to the variance counts
    found = heard(tmp_path, "omnilingual", samples, [0, 100, 319], -16, 32)
    wanted = emitter.contract.prepare(samples).reshape(-1, 320)[:, [0, 100, 319]]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def words(recognizer, samples):
    (emissions,) = recognizer.emissions([samples])
    return recognizer.greedy_decoder().decode([emissions])[0][0].text.split()


def sherpa_words(recognizer, samples):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, samples)
    recognizer.decode_stream(stream)
    return stream.result.text.split()


@pytest.mark.parametrize(("family", "metadata"), [("nemo", NEMO), ("zipformer", ZIPFORMER)])
def test_sherpa_onnx_reads_the_same_of_the_same_file(tmp_path, family, metadata):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    folder = folder_of(tmp_path, family, metadata)
    make = getattr(sherpa_onnx.OfflineRecognizer, f"from_{family}_ctc")
    theirs = make(model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt"))
    ours = Recognizer.load(folder)
    from ctcspeech.text.error_rates import word_errors

    wrong = total = 0
    for seed in range(12):
        samples = speech_like(STEP * 160 * 40, seed, noise=0.02)  # floor and ceil are equal
        errors = word_errors(
            " ".join(sherpa_words(theirs, samples)), " ".join(words(ours, samples))
        )
        wrong, total = wrong + errors.errors, total + errors.reference_length
    assert total > 50 and wrong <= 0.05 * total  # random weights: nothing is certain


def samples_model(labels, normal_name="input_values"):
    """One convolution of stride 320, as wav2vec2's seven together."""
    graph = Graph()
    rows = graph.op("Unsqueeze", normal_name, graph.integers(1))
    kernel = np.random.default_rng(2).normal(0, 1, (labels, 1, 400)).astype(np.float32)
    scores = graph.op("Conv", rows, graph.constant(kernel), strides=[320])
    graph.rename(graph.op("Transpose", scores, perm=[0, 2, 1]), "logits")
    outputs = [("logits", np.float32, ["N", "T", labels])]
    return graph.model([(normal_name, np.float32, ["N", "S"])], outputs), kernel[:, 0]


@pytest.mark.parametrize("family", ["wav2vec2", "omnilingual"])
def test_raw_waveforms_are_normalised(tmp_path, family):
    model, kernel = samples_model(5, "input_values" if family == "wav2vec2" else "x")
    onnx.save(model, tmp_path / "model.onnx")
    if family == "wav2vec2":
        vocabulary = {"<pad>": 0, "|": 1, "a": 2, "b": 3, "<unk>": 4}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 0}))
        settings = {"do_normalize": True, "sampling_rate": 16000}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        write_tokens(tmp_path, ["<s>", "<pad>", "</s>", "a", "▁"])
    emitter = OnnxEmitter.load(tmp_path)
    assert emitter.contract.family == family and emitter.blank == 0
    assert emitter.frame_shift_ms == pytest.approx(20)
    samples = 0.2 + speech_like(8000, 1)
    normal = (samples - samples.mean()) / np.sqrt(
        samples.var() + (1e-5 if family == "omnilingual" else 1e-7)
    )
    windows = np.lib.stride_tricks.sliding_window_view(normal, 400)[::320]
    logits = windows @ kernel.T
    wanted = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    wanted -= logits.max(1, keepdims=True)
    (found,) = emitter.compute([samples])
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert emitter.compute([samples[:100]])[0].shape == (0, 5)
    # Padding would change what it says: each recording is computed alone.
    both = emitter.compute([samples, samples[:5000]])
    np.testing.assert_array_equal(both[0], found)


def test_a_description_beside_the_model_counts(tmp_path):
    model, _ = samples_model(3, "x")
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "my.txt").write_text("a\nb\n_\n")
    values = {"family": "wav2vec2", "sample_rate": 8000, "frame_inputs": 320, "blank": 2}
    values["tokens"] = "my.txt"
    (tmp_path / "ctcspeech.json").write_text(json.dumps(values))
    emitter = OnnxEmitter.load(tmp_path / "net.onnx")
    assert (emitter.sample_rate, emitter.blank, emitter.labels) == (8000, 2, ["a", "b", "_"])


# -- labels -----------------------------------------------------------------------------------


def test_lists_of_labels(tmp_path):
    file = tmp_path / "tokens.txt"
    file.write_text("<blk> 0\n 2\na 1\n")  # the space is a line with a bare id
    assert read_labels(file) == ["<blk>", "a", " "]
    file.write_text("<blk> 0\n2\na 1\n")
    assert read_labels(file) == ["<blk>", "a", " "]
    alphabet = alphabet_of(TOKENS)
    assert alphabet.kind == "pieces" and alphabet.blank == 0
    assert alphabet.decode([3, 4, 6, 2]) == "bcd fga"
    assert alphabet.encode("bcd fga") == [3, 4, 6, 2]
    assert alphabet.missing("bx") == ["x"]
    assert alphabet_of(["a", "|", "<pad>"]).decode([0, 1, 0]) == "a a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<blk> 0\na 2\n", "missing"),
        ("<blk> 0\na 0\n", "repeated"),
        ("<blk> 0\nb\nc x\n", "no id"),
        ("", "no labels"),
    ],
)
def test_wrong_lists_of_labels(tmp_path, text, message):
    (tmp_path / "tokens.txt").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_labels(tmp_path / "tokens.txt")


# -- bad input --------------------------------------------------------------------------------


def load(tmp_path, model):
    (tmp_path / "model.onnx").write_bytes(
        model if isinstance(model, bytes) else model.SerializeToString()
    )
    return OnnxEmitter.load(tmp_path)


def test_what_is_no_ctc_model_is_refused(tmp_path):
    write_tokens(tmp_path)
    with pytest.raises(ModelError, match="cannot be used as an ONNX model"):
        load(tmp_path, b"")
    with pytest.raises(ModelError, match="cannot be used as an ONNX model"):
        load(tmp_path, b"PK\x03\x04 no model at all")
    graph = Graph()
    graph.rename(graph.op("Relu", "x"), "y")
    plain = graph.model([("x", np.float32, ["N", 3, 8, 8])], [("y", np.float32, ["N", 3, 8, 8])])
    with pytest.raises(ModelError, match="ctcspeech.json"):
        load(tmp_path, plain)
    graph = Graph()
    graph.rename(graph.op("Relu", "x"), "y")
    flat = graph.model([("x", np.float32, ["N", "S"])], [("y", np.float32, ["N", "S"])])
    with pytest.raises(ModelError, match="batch, frames, labels"):
        load(tmp_path, flat)


def test_wrong_vocabulary_and_frames_are_refused(tmp_path):
    folder_of(tmp_path, "zipformer", ZIPFORMER)
    write_tokens(tmp_path, TOKENS[:5])
    with pytest.raises(ModelError, match="5 labels, but model.onnx writes 7"):
        OnnxEmitter.load(tmp_path)
    (tmp_path / "tokens.txt").unlink()
    with pytest.raises(ModelError, match="no list of its labels"):
        OnnxEmitter.load(tmp_path)
    write_tokens(tmp_path)
    (tmp_path / "ctcspeech.json").write_text('{"family": "zipformer", "subsampling_factor": 8}')
    with pytest.raises(ModelError, match="about 40.0 ms"):
        OnnxEmitter.load(tmp_path)
    (tmp_path / "ctcspeech.json").write_text('{"family": "whisper"}')
    with pytest.raises(ModelError, match="family must be one of"):
        OnnxEmitter.load(tmp_path)
    (tmp_path / "ctcspeech.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        OnnxEmitter.load(tmp_path)


def test_nan_is_refused(tmp_path):
    write_tokens(tmp_path, TOKENS[:5])
    model, _ = samples_model(5, "x")
    constants = model.graph.initializer
    for tensor in constants:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 3:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32("nan"), tensor.name))
    with pytest.raises(ModelError, match="NaN"):
        load(tmp_path, model)


def test_an_operator_set_of_the_future_is_refused(tmp_path):
    folder_of(tmp_path, "zipformer", ZIPFORMER)
    model = features_model("zipformer", ZIPFORMER)
    model.opset_import[0].version = 999
    with pytest.raises(ModelError, match="update onnxruntime"):
        load(tmp_path, model)


def test_external_data_outside_of_the_folder_is_refused(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 4 * BINS * len(TOKENS))
    folder = tmp_path / "model"
    folder.mkdir()
    write_tokens(folder)
    for location in ("../secret.bin", str(secret)):
        model = features_model("zipformer", ZIPFORMER)
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 2:
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                del tensor.external_data[:]
                entry = tensor.external_data.add()
                entry.key, entry.value = "location", location
        with pytest.raises(ModelError, match="cannot be used"):
            load(folder, model)


def test_hostile_files_are_exceptions(tmp_path):
    """Bytes changed and cut at random: an error or a model, never the end of the process."""
    whole = features_model("zipformer", ZIPFORMER).SerializeToString()
    write_tokens(tmp_path)
    generator = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 3):
            data[place] = int(generator.integers(0, 256))
        if generator.random() < 0.3:
            data = data[: int(generator.integers(1, len(data)))]
        try:
            load(tmp_path, bytes(data))
        except ModelError:
            continue


def test_a_loop_without_end_of_nodes_is_refused(tmp_path):
    write_tokens(tmp_path)
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", "T", 7])
    graph = helper.make_graph(nodes, "circle", [], [value])
    with pytest.raises(ModelError):
        load(tmp_path, helper.make_model(graph))
