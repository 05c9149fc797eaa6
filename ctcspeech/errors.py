"""The exceptions of the package: one tree, so that one `except` clause can catch them all.

An error says which item is wrong, what it must be, what it is, and how to mend it. Wrong arguments
of a function (a shape, a type, a range) are plain `ValueError` and `TypeError`.
"""

__all__ = [
    "AlignmentError",
    "AlphabetError",
    "AudioError",
    "BulkError",
    "CheckpointError",
    "ConfigError",
    "CtcSpeechError",
    "DecoderError",
    "FeatureError",
    "LanguageModelError",
    "ManifestError",
    "MissingPackageError",
    "ModelError",
    "StorageError",
    "TrainingError",
]


class CtcSpeechError(Exception):
    """Base of every error that ctcspeech raises of its own."""


class AudioError(CtcSpeechError):
    """A recording cannot be read: missing, empty, truncated, not audio, or not finite."""


class FeatureError(CtcSpeechError):
    """Features cannot be computed, or a file of precomputed features cannot be read."""


class AlphabetError(CtcSpeechError):
    """A text has characters outside the alphabet, or an alphabet file is wrong."""


class ManifestError(CtcSpeechError):
    """A manifest, or a corpus being imported into one, is wrong."""


class ConfigError(CtcSpeechError):
    """A configuration has an unknown key or a wrong value."""


class CheckpointError(CtcSpeechError):
    """A checkpoint is missing, damaged, or of a version that this release does not read."""


class MissingPackageError(CtcSpeechError, ImportError):
    """A package is not installed that this work needs; the message says which extra brings it."""


class ModelError(CtcSpeechError):
    """A model cannot be found, fetched, exported or used: what it is or gives is not as it must."""


class TrainingError(CtcSpeechError):
    """Training cannot go on."""


class LanguageModelError(CtcSpeechError):
    """A language model file is damaged or of an unknown kind, or a model cannot be estimated."""


class DecoderError(CtcSpeechError):
    """The beam decoder cannot work with what it was given."""


class AlignmentError(CtcSpeechError):
    """A text cannot be aligned with a recording."""


class StorageError(CtcSpeechError):
    """Storage (a disk, a bucket) cannot be reached, read or written."""


class BulkError(CtcSpeechError):
    """A bulk job cannot go on, or its folder is not what it must be."""
