"""Which contract an ONNX file keeps: what goes in, what comes out, in which units.

| family | told by | input | front end |
|---|---|---|---|
| ctcspeech | metadata `ctcspeech` | by `layout` | in the graph, or ours |
| nemo | inputs `audio_signal`, `length` | (B, F, T), lengths | preset "nemo", `normalize_type` |
| zipformer | inputs `x`, `x_lens` | (B, T, F), lengths | preset "kaldi" |
| wenet | the same, "wenet" in the metadata | (B, T, F), lengths | preset "kaldi", samples x 32768 |
| wav2vec2 | one input of rank 2, vocab.json | samples | mean 0, deviation 1 if asked for |
| omnilingual | one input of rank 2, tokens.txt | samples | mean 0, deviation 1 |

These are the contracts of NeMo's exports as sherpa-onnx and onnx-asr publish them, of icefall and
WeNet as sherpa-onnx loads them, and of transformers' models as optimum exports them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctcspeech.errors import AlphabetError, ModelError
from ctcspeech.exchange.labels import alphabet_of, find_labels, read_labels
from ctcspeech.text.alphabet import Alphabet

__all__ = ["FAMILIES", "KEY", "Contract", "read_contract"]

KEY, VERSION = "ctcspeech", 1
"""The metadata entry of files of this project, a JSON object, and its version."""

FAMILIES = ("ctcspeech", "nemo", "zipformer", "wenet", "wav2vec2", "omnilingual")
_LONGEST = 30.0  # seconds that models of other toolkits hear at once
Array = npt.NDArray[np.float32]


@dataclass
class Contract:
    """How to use a session: see `OnnxEmitter`.

    prepare: samples (S,) of one recording to what the graph takes of it, (S,) or (T, F).
    inputs: names for the batch, its lengths ("" where the graph takes none), by `layout`:
    "NS", "NTF" or "NFT". outputs: the names of emissions and, if there are any, of lengths.
    shortest: rows that the graph needs at least. subsampling: rows to a frame of emissions.
    """

    name: str
    family: str
    alphabet: Alphabet
    sample_rate: int
    frame_inputs: int
    inputs: tuple[str, str]
    outputs: list[str]
    layout: str
    prepare: Callable[[npt.NDArray[Any]], Array]
    subsampling: int
    num_features: int | None = None
    input_rate: float = 0.0
    batches: bool = False
    longest_input: float | None = _LONGEST
    shortest: int = 1
    normalizer: dict[str, Any] | None = None
    integer_mask: bool = False  # the second input is a mask of samples, not their number
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether the file is of this project."""
        return self.family == "ctcspeech"

    def feed(self, padded: Array, lengths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The inputs of the graph, of a batch (N, S) or (N, T, F)."""
        batch, second = self.inputs
        if self.layout == "NFT":
            padded = np.ascontiguousarray(padded.transpose(0, 2, 1))
        values: dict[str, npt.NDArray[Any]] = {batch: padded}
        if second and self.integer_mask:
            values[second] = (np.arange(padded.shape[1]) < lengths[:, None]).astype(np.int64)
        elif second:
            values[second] = lengths
        return values


def read_contract(session: Any, file: Path) -> Contract:
    """Raises ModelError listing what is missing."""
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    if KEY in metadata:
        return _own(session, file, _json(metadata[KEY], f"metadata of {file}"))
    beside = file.parent / "ctcspeech.json"
    values = _json(beside.read_text(encoding="utf-8"), str(beside)) if beside.is_file() else {}
    family = values.get("family") or _family(session, file, metadata)
    if family not in FAMILIES[1:]:
        raise ModelError(f"{beside}: family must be one of {', '.join(FAMILIES[1:])}: {family!r}")
    reader = _Foreign(session, file, metadata, values, family)
    return reader.samples() if family in ("wav2vec2", "omnilingual") else reader.features()


def _json(text: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{place} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{place} is damaged: it must be a JSON object")
    return values


# -- files of this project --------------------------------------------------------------------


def _own(session: Any, file: Path, values: dict[str, Any]) -> Contract:
    if values.get("version") != VERSION:
        raise ModelError(
            f"{file} has format version {values.get('version')!r}, this release reads version "
            f"{VERSION}; read it with a newer ctcspeech"
        )
    try:
        layout, features = values["layout"], values.get("features")
        rate, subsampling = int(values["sample_rate"]), int(values["subsampling"])
        shift_ms = float(values["shift_ms"])
        alphabet = Alphabet.from_dict(values["alphabet"])
        width = int(values.get("num_features") or 0)
    except (KeyError, TypeError, ValueError, AlphabetError) as error:
        raise ModelError(f"{file} is damaged: its metadata: {error!r}") from error
    names = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]
    shift = round(shift_ms * rate / 1000)
    common: dict[str, Any] = {
        "name": str(file),
        "family": "ctcspeech",
        "alphabet": alphabet,
        "sample_rate": rate,
        "inputs": (names[0], names[1]),
        "outputs": outputs,
        "subsampling": subsampling,
        "batches": True,
        "longest_input": None,
        "normalizer": values.get("normalizer"),
        "metadata": values,
    }
    if layout == "waveform":
        return Contract(
            layout="NS", frame_inputs=subsampling * shift, input_rate=float(rate),
            prepare=lambda samples: np.asarray(samples, np.float32), **common,
        )  # fmt: skip
    if layout == "features":  # precomputed by others
        return Contract(
            layout="NTF", frame_inputs=subsampling, input_rate=1000 / shift_ms,
            num_features=width, prepare=lambda rows: np.asarray(rows, np.float32), **common,
        )  # fmt: skip
    if layout == "nemo":
        common["outputs"] = ["log_probs"]  # the other is for readers of fewer frames
        return Contract(
            layout="NFT", frame_inputs=subsampling * shift, input_rate=float(rate),
            prepare=_front_end(features or {}), **common,
        )  # fmt: skip
    raise ModelError(f"{file} has the unknown layout {layout!r}; read it with a newer ctcspeech")


def _front_end(values: dict[str, Any]) -> Callable[[npt.NDArray[Any]], Array]:
    from pydantic import ValidationError

    from ctcspeech.audio.feature_config import FeatureConfig
    from ctcspeech.audio.numpy_features import FrontEnd

    try:
        return FrontEnd(FeatureConfig.model_validate(values))
    except ValidationError as error:
        raise ModelError(f"the model's features cannot be computed: {error}") from error


# -- files of other toolkits ------------------------------------------------------------------


def _family(session: Any, file: Path, metadata: dict[str, str]) -> str:
    inputs = session.get_inputs()
    names = {item.name for item in inputs}
    about = " ".join([*metadata.values(), file.name, file.parent.name]).lower()
    rank = len(inputs[0].shape)
    if rank == 3 and len(inputs) >= 2 and "cache" not in " ".join(names):
        if "audio_signal" in names or "EncDecCTC" in metadata.get("model_type", ""):
            return "nemo"
        return "wenet" if "wenet" in about else "zipformer"
    if rank == 2 and "float" in inputs[0].type and len(inputs) <= 2:
        has_vocabulary = (file.parent / "vocab.json").is_file()
        return "wav2vec2" if has_vocabulary or "input_values" in names else "omnilingual"
    shapes = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
    raise ModelError(
        f"{file}: what kind of CTC model this is cannot be told from its inputs ({shapes}); put a "
        f'ctcspeech.json beside it with "family" (one of {", ".join(FAMILIES[1:])})'
    )


class _Foreign:
    """The parts of a contract, from metadata, files beside the model, and ctcspeech.json."""

    def __init__(
        self,
        session: Any,
        file: Path,
        metadata: dict[str, str],
        values: dict[str, Any],
        family: str,
    ) -> None:
        self.session, self.file, self.metadata = session, file, metadata
        self.values, self.family = values, family
        self.config = self._read("config.json")
        outputs = session.get_outputs()
        if not outputs or len(outputs[0].shape) != 3:
            shape = outputs[0].shape if outputs else "none"
            raise ModelError(
                f"{file} is no CTC model: its first output must be (batch, frames, labels), got "
                f"{shape}"
            )
        self.classes = outputs[0].shape[2]

    def _read(self, name: str) -> dict[str, Any]:
        path = self.file.parent / name
        return _json(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}

    def integer(self, key: str, *sources: dict[str, Any]) -> int | None:
        for source in (self.values, *sources):
            if key in source:
                try:
                    return int(source[key])
                except (TypeError, ValueError):
                    raise ModelError(
                        f"{self.file}: {key} must be an integer, got {source[key]!r}"
                    ) from None
        return None

    def alphabet(self) -> Alphabet:
        folder = self.file.parent
        named = self.values.get("tokens")
        path = folder / str(named) if named else find_labels(folder)
        if path is None:
            raise ModelError(
                f"{self.file}: there is no list of its labels beside it (tokens.txt, vocab.txt or "
                "vocab.json)"
            )
        labels = read_labels(path)
        if isinstance(self.classes, int) and self.classes == len(labels) + 1:
            # NeMo's vocab.txt may leave out the blank, which is its last label.
            if self.family == "nemo" and not {"<blk>", "<blank>", "<eps>"} & set(labels):
                labels.append("<blk>")
        if isinstance(self.classes, int) and self.classes != len(labels):
            raise ModelError(
                f"{path} has {len(labels)} labels, but {self.file.name} writes {self.classes}"
            )
        blank = self.integer("blank")
        if blank is None and self.family == "wav2vec2":
            blank = self.integer("pad_token_id", self.config)
        if blank is None and self.family == "omnilingual":
            blank = 0
        return alphabet_of(labels, blank)

    def outputs(self, integer_type: str = "int64") -> list[str]:
        """Emissions, and their lengths where the second output is one."""
        found = self.session.get_outputs()
        names = [found[0].name]
        if len(found) > 1 and integer_type in found[1].type and len(found[1].shape) == 1:
            names.append(found[1].name)
        return names

    def features(self) -> Contract:
        """NeMo, zipformer, WeNet: features in."""
        rate = self.integer("sample_rate", self.config) or 16000
        inputs = self.session.get_inputs()
        nemo = self.family == "nemo"
        width = inputs[0].shape[1 if nemo else 2]
        width = width if isinstance(width, int) else None
        width = width or self.integer("features_size", self.config) or 80
        factor = self.integer("subsampling_factor", self.metadata, self.config)
        if factor is None:
            frame = self.integer("frame_inputs")
            factor = frame // (rate // 100) if frame else {"nemo": 8}.get(self.family, 4)
        values: dict[str, Any] = {"preset": "nemo" if nemo else "kaldi", "num_bins": width}
        values["sample_rate"] = rate
        if rate != 16000:
            values["fft_size"] = 1 << (round(0.025 * rate) - 1).bit_length()
            if not nemo:
                values["high_frequency"] = rate / 2 - 400.0
        if nemo and self.metadata.get("normalize_type", "per_feature") != "per_feature":
            # sherpa-onnx floors these as Kaldi does
            values.update(normalization="none", floor=float(np.finfo(np.float32).eps))
            values["clamp_floor"] = True
        if self.family == "wenet":
            values["sample_scale"] = 32768.0
        values.update(self.values.get("features") or {})
        second = inputs[1].name if len(inputs) > 1 else ""
        return Contract(
            name=str(self.file), family=self.family, alphabet=self.alphabet(), sample_rate=rate,
            frame_inputs=factor * (rate // 100), inputs=(inputs[0].name, second),
            outputs=self.outputs(), layout="NFT" if nemo else "NTF", prepare=_front_end(values),
            subsampling=factor, input_rate=float(rate), shortest=9, metadata=self.metadata,
        )  # fmt: skip

    def samples(self) -> Contract:
        """wav2vec2 and omnilingual: samples in."""
        settings = self._read("preprocessor_config.json")
        rate = self.integer("sample_rate") or self.integer("sampling_rate", settings) or 16000
        frame = self.integer("frame_inputs")
        if frame is None and "conv_stride" in self.config:
            frame = int(np.prod(self.config["conv_stride"]))
        frame = frame or 320 * rate // 16000
        prepare = _float
        if self.family == "omnilingual":
            prepare = partial(_normalized, floor=1e-5)  # fairseq2's layer_norm
        elif settings.get("do_normalize", True):
            prepare = _normalized
        inputs = self.session.get_inputs()
        second = inputs[1].name if len(inputs) > 1 else ""
        return Contract(
            name=str(self.file), family=self.family, alphabet=self.alphabet(), sample_rate=rate,
            frame_inputs=frame, inputs=(inputs[0].name, second), outputs=self.outputs(),
            layout="NS", prepare=prepare, subsampling=frame,
            input_rate=float(rate), shortest=2 * frame, integer_mask="mask" in second,
            metadata=self.metadata,
        )  # fmt: skip


def _float(samples: npt.NDArray[Any]) -> Array:
    return np.asarray(samples, np.float32)


def _normalized(samples: npt.NDArray[Any], floor: float = 1e-7) -> Array:
    """Mean 0, variance 1, as wav2vec2's feature extractor does it."""
    samples = np.asarray(samples, np.float32)
    if not len(samples):
        return samples
    return (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(floor))
