"""The configuration of a training run: one TOML file and `section.key=value` overrides.

    config = load_config("an4.toml", ["model.hidden=256", "train.epochs=3"])

Relative paths in the file are meant from its folder, those in overrides from the working
directory. An unknown key is refused, and the nearest known one proposed.
"""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ctcspeech.audio.feature_config import FeatureConfig
from ctcspeech.data.augment import AugmentConfig
from ctcspeech.errors import ConfigError
from ctcspeech.extras import require
from ctcspeech.files import atomic_write
from ctcspeech.model.deepspeech import DeepSpeech1Config, DeepSpeech2Config, ModelConfig
from ctcspeech.text.normalize import Normalizer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "MAY_CHANGE",
    "DataConfig",
    "RunConfig",
    "TrainConfig",
    "differences",
    "load_config",
    "save_config",
]

# What may differ from the run that is resumed: nothing of it changes what was already learnt.
MAY_CHANGE = {
    "data.workers",
    "data.cache_mb",
    "train.epochs",
    "train.max_minutes",
    "train.device",
    "train.threads",
    "train.patience",
    "train.keep_best",
    "train.average",
    "train.checkpoint_minutes",
    "train.log_every",
    "train.tensorboard",
}

Paths = Annotated[
    list[Path], BeforeValidator(lambda value: [value] if isinstance(value, str | Path) else value)
]

Beta = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(BaseModel):
    """Which utterances, how they are written, and how they are put into batches."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    train: Paths = Field(min_length=1)  # manifests
    validation: Paths = []  # manifests; without one nothing is validated
    # An alphabet's JSON file or a SentencePiece model; without one the training texts' characters
    # (or bytes, or `alphabet_size` pieces trained on them) are taken.
    alphabet: Path | None = None
    alphabet_kind: Literal["characters", "bytes", "sentencepiece"] = "characters"
    alphabet_size: int = Field(256, ge=2, le=1_000_000)
    normalizer: Normalizer | None = None  # applied to all texts
    min_seconds: float = Field(0.0, ge=0)  # shorter and longer training utterances are left out
    max_seconds: float = Field(30.0, gt=0)
    batch_seconds: float = Field(120.0, gt=0, le=1e6)  # audio in a batch, padding included
    max_utterances: int | None = Field(None, ge=1)  # in a batch
    sorta_grad: bool = True  # the first epoch goes from short to long
    workers: int = Field(
        0, ge=0, le=256
    )  # processes that read ahead; 0 reads in the training process
    cache_mb: float = Field(512.0, ge=0, le=1e8)  # decoded recordings kept in memory
    # For manifests of members of tar files that are too many, or too far away, to be read here and
    # there: each tar file is read from its beginning to its end, and shuffled within so many
    # utterances of each of `shard_streams` streams (docs/how-to/large-data.md). Without it the
    # whole of the data is shuffled, and any utterance may be read at any time.
    shuffle_buffer: int | None = Field(None, ge=1, le=10_000_000)
    # Streams in which shards are read at the same time; a multiple of processes times workers.
    shard_streams: int = Field(8, ge=1, le=4096)

    @model_validator(mode="after")
    def _shards_are_not_sorted(self) -> "DataConfig":
        if self.shuffle_buffer is not None:
            if self.sorta_grad and "sorta_grad" in self.model_fields_set:
                raise ValueError(
                    "sorta_grad sorts all utterances by length, which shards read in their order "
                    "(shuffle_buffer) cannot be; set it to false"
                )
            self.sorta_grad = False
        return self


class TrainConfig(BaseModel):
    """How the model is trained."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(50, ge=1, le=1_000_000)
    # Train no longer than this; the learning rate's schedule then follows whichever of epochs and
    # minutes is further on, so that it always runs to its end. Batches then depend on the clock.
    max_minutes: float | None = Field(None, gt=0)
    init_from: Path | None = None  # fine-tune this checkpoint
    # Added to the blank's bias in an untrained output layer: the blank begins exp(3) = 20 times as
    # probable as a label. With 0 the most frequent label, mostly the space, may come to stand for
    # silence: the words at either end are then written on the far side of it, not where they are
    # heard, which takes many epochs more to learn (recipes/grid).
    blank_bias: float = Field(3.0, ge=-50, le=50)
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: with Nesterov momentum
    learning_rate: float = Field(1e-3, gt=0)  # at its highest
    weight_decay: float = Field(1e-2, ge=0)  # not of biases and batch norm
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd
    betas: tuple[Beta, Beta] = (0.9, 0.98)  # of adamw
    schedule: Literal["cosine", "onecycle", "plateau", "constant"] = "onecycle"
    warmup: float = Field(0.1, ge=0, lt=1)  # share of the run (onecycle: 0.3 is customary)
    plateau_patience: int = Field(2, ge=0)  # epochs without gain before the rate is lowered
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # of the loss, see ctc_loss
    delay_penalty: float = Field(0.0, ge=-100, le=100)  # of the loss: above 0 labels come earlier
    # Of forward-only GRUs: the probability with which an utterance begins with the states in which
    # another one has ended, so that a stream of minutes is nothing new (train/carry.py); 0 always
    # begins with zeros.
    carry_state: float = Field(0.0, ge=0, le=1)
    # With [model.attention]: the weight of CTC in the loss, that of the attention decoder being the
    # rest (published: 0.2 to 0.5); 0 trains the attention decoder alone. Scheduled sampling: with
    # this probability at the run's end, rising from 0, the decoder is given a label of its own in
    # place of the reference's. Smoothing: the labels' of the attention decoder.
    ctc_weight: float = Field(0.3, ge=0, lt=1)
    scheduled_sampling: float = Field(0.0, ge=0, le=1)
    attention_smoothing: float = Field(0.1, ge=0, lt=1)
    gradient_clip: float | None = Field(5.0, gt=0)  # Euclidean norm over all parameters
    # Weight of the consistency between two differently masked views of each utterance (CR-CTC;
    # published: 0.2, with wider time masks). A step then costs twice as much; 0 has one view. Tried
    # once on AN4, without a gain (recipes/an4).
    consistency: float = Field(0.0, ge=0, le=1000)
    # Weight of the CTC loss of the middle recurrent layer, that of the output being the rest (Lee
    # and Watanabe 2021; published: 0.3).
    intermediate_ctc: float = Field(0.0, ge=0, lt=1)
    # Standard deviation of the noise on the weights while a gradient is computed (Graves 2013:
    # 0.075, where weights were drawn from -0.1 to 0.1; here a recurrent layer's are drawn from
    # -1 / sqrt(hidden) to 1 / sqrt(hidden)).
    weight_noise: float = Field(0.0, ge=0, le=10)
    # Decay of the exponential moving average of the weights, which is then what is validated and
    # kept; 0 takes none. 0.999 averages over the last thousand steps, which must be a small part
    # of the run: on AN4 0.998, a fifth of 2,500 steps, was worse than the last weights.
    ema: float = Field(0.0, ge=0, lt=1)
    accumulate: int = Field(1, ge=1, le=1_000_000)  # batches for one step of the optimizer
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")  # auto: cuda, if any
    threads: int | None = Field(None, ge=1, le=1024)  # of torch on the CPU
    select: Literal["wer", "cer", "loss"] = "wer"  # of the validation: what best means
    keep_best: int = Field(3, ge=1, le=1000)  # checkpoints kept, and averaged at the end
    average: bool = True
    patience: int | None = Field(None, ge=1)  # epochs without gain before training stops
    validate_every: int = Field(1, ge=1)  # epochs
    checkpoint_minutes: float = Field(10.0, gt=0)  # between two that can be resumed
    statistics_utterances: int = Field(2000, ge=1)  # sample for the features' mean and deviation
    log_every: int = Field(10, ge=1)  # steps between two lines in metrics.jsonl
    tensorboard: bool = True

    @model_validator(mode="after")
    def _intermediate_ctc_counts(self) -> "TrainConfig":
        if self.intermediate_ctc and not self.ctc_weight:
            raise ValueError("intermediate_ctc has no effect with ctc_weight = 0")
        return self


class RunConfig(BaseModel):
    """All sections of a run's TOML file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    data: DataConfig
    features: FeatureConfig = Field(default_factory=FeatureConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    model: ModelConfig = Field(default_factory=DeepSpeech2Config)
    train: TrainConfig = Field(default_factory=TrainConfig)

    @model_validator(mode="after")
    def _feature_augmentation_has_features(self) -> "RunConfig":
        if self.features.kind != "precomputed":
            for name in ("feature_speed_probability", "cepstral_warp_probability"):
                if getattr(self.augment, name):
                    raise ValueError(
                        f"augment.{name} changes precomputed features, which these are not "
                        f'(features.kind = "{self.features.kind}"); samples are changed by '
                        "augment.speed_probability"
                    )
        return self

    @model_validator(mode="before")
    @classmethod
    def _default_architecture(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("model"), dict):
            model = {"architecture": "deepspeech2", **values["model"]}
            return {**values, "model": model}
        return values


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a run's TOML file; `overrides` are `section.key=value`, values written as in TOML.

    Raises ConfigError naming the key, what it must be, and for an unknown one the nearest.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    overridden = set()
    for override in overrides:
        keys, value = parse_override(override)
        section = values
        for key in keys[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{override}: {key} is no section")
        section[keys[-1]] = value
        overridden.add(".".join(keys))
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, values, str(path))) from None
    return resolve_paths(config, path.parent.absolute(), overridden)


def save_config(config: RunConfig, path: str | os.PathLike[str]) -> None:
    """Writes a TOML file that `load_config` reads back as the same configuration.

    Raises MissingPackageError without tomli-w, which the extra "train" brings.
    """
    tomli_w = require("tomli_w", "saving a configuration")
    with atomic_write(path, "wb") as file:
        tomli_w.dump(config.model_dump(mode="json", exclude_none=True), file)


def differences(a: BaseModel, b: BaseModel) -> Iterator[str]:
    """The dotted keys in which two configurations differ."""
    one, other = a.model_dump(), b.model_dump()
    for key in one.keys() | other.keys():
        mine, its = getattr(a, key, None), getattr(b, key, None)
        if isinstance(mine, BaseModel) and isinstance(its, BaseModel):
            yield from (f"{key}.{rest}" for rest in differences(mine, its))
        elif one.get(key) != other.get(key):
            yield key


def parse_override(override: str) -> tuple[list[str], Any]:
    """`model.hidden=512` as (["model", "hidden"], 512); what is not TOML is taken as a string."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(
            f"an override must look like section.key=value (model.hidden=512), got {override!r}"
        )
    try:
        return keys, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, text.strip()


def describe_errors(error: ValidationError, values: Any, source: str) -> str:
    """One line for each wrong key of `values`, the first after the name of their source."""
    lines = []
    for item in error.errors():
        parts: list[str] = []
        value: Any = values
        for part in item["loc"]:
            # The location names the branch of a union as well (the architecture): no key.
            if isinstance(value, dict) and part not in value and item["type"] != "missing":
                continue
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            parts.append(str(part))
        name = ".".join(parts)
        if item["type"] == "extra_forbidden":
            near = nearest(name, [str(part) for part in item["loc"]])
            lines.append(f"{name} is unknown" + (f"; did you mean {near}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"{name} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            if name == "train.device":
                message = "must be auto, cpu or cuda (cuda:1 for the second)"
            lines.append(f"{name}: {message[:1].lower()}{message[1:]}, got {value!r}")
    return "\n".join(f"{source}: {line}" for line in lines)


def nearest(name: str, location: list[str]) -> str | None:
    """The known dotted key that `name` most likely should have been."""
    architecture = location[1] if location[0] == "model" and len(location) > 2 else None
    known = list(known_keys(RunConfig))
    if architecture is not None:
        allowed = DeepSpeech1Config if architecture == "deepspeech1" else DeepSpeech2Config
        known = [
            key
            for key in known
            if not key.startswith("model.") or key.split(".")[1] in allowed.model_fields
        ]
    section, _, last = name.rpartition(".")
    found = [key for key in known if key.rpartition(".")[2] == last]  # in the wrong section
    if not found:
        inside = [key for key in known if key.rpartition(".")[0] == section]
        found = difflib.get_close_matches(name, inside, 1, 0.6)
    found = found or difflib.get_close_matches(name, known, 1, 0.6)
    return found[0] if found else None


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration."""
    for key, field in model.model_fields.items():
        yield prefix + key
        for part in models_of(field.annotation):
            yield from known_keys(part, f"{prefix}{key}.")


def models_of(annotation: Any) -> Iterable[type[BaseModel]]:
    """The configuration classes that an annotation (A, A | B, Annotated[A, ...]) allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in getattr(annotation, "__args__", ()) for part in models_of(inner)]


def resolve_paths(config: RunConfig, folder: Path, overridden: set[str]) -> RunConfig:
    """`config` with absolute paths: from `folder`, those overridden from the working directory."""

    def absolute(value: Any, name: str) -> Any:
        base = Path.cwd() if name in overridden else folder
        if isinstance(value, Path):
            return Path(os.path.normpath(base / value.expanduser()))
        if isinstance(value, list | tuple) and any(isinstance(item, Path) for item in value):
            return type(value)(absolute(item, name) for item in value)
        if isinstance(value, BaseModel):
            changed = {key: absolute(getattr(value, key), f"{name}.{key}") for key in fields(value)}
            return value.model_copy(update=changed)
        return value

    def fields(model: BaseModel) -> list[str]:
        return list(type(model).model_fields)

    # Only sections that were given: a copy's are marked as given (fine-tuning looks at that).
    sections = {key: absolute(getattr(config, key), key) for key in config.model_fields_set}
    return config.model_copy(update=sections)
