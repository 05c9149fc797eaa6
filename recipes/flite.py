"""flite as a library, by ctypes: text to samples in memory (Debian package flite).

Its voices slt, rms and awb are made from recordings of readers of the CMU ARCTIC prompts.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

FLITE_VOICES = {
    "slt": "cmu_us_slt",
    "rms": "cmu_us_rms",
    "awb": "cmu_us_awb",
    "kal16": "cmu_us_kal16",
}


def flite_library(name: str) -> str | None:
    """The shared library of a flite voice, or None where it is not installed."""
    for folder in ("/usr/lib", "/usr/local/lib"):
        found = sorted(Path(folder).glob(f"**/libflite_{FLITE_VOICES[name]}.so*"))
        if found:
            return str(found[0])
    return None


class _Wave(ctypes.Structure):  # cst_wave of flite 2
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _Voice(ctypes.Structure):  # the head of cst_voice
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class Flite:
    """A synthesiser of English: `Flite().say("one two", voice="slt")` gives samples and their rate.

    Raises `RuntimeError` where flite or a voice is not installed.
    """

    def __init__(self) -> None:
        self._voices: dict[str, ctypes.c_void_p] = {}
        self._flite: ctypes.CDLL | None = None

    def say(self, text: str, *, voice: str, stretch: float = 1.0) -> tuple[np.ndarray, int]:
        """Samples (S,), float32 in [-1, 1], and their rate in Hz. stretch: of the durations."""
        handle = self._voices.get(voice) or self._open(voice)
        flite = self._flite
        assert flite is not None
        head = ctypes.cast(handle, ctypes.POINTER(_Voice)).contents
        flite.feat_set_float(
            ctypes.c_void_p(head.features), b"duration_stretch", ctypes.c_float(stretch)
        )
        wave = flite.flite_text_to_wave(text.encode(), handle)
        if not wave:
            raise RuntimeError(f"flite could not say {text!r} with the voice {voice!r}")
        content = wave.contents
        try:
            samples = np.ctypeslib.as_array(content.samples, shape=(content.num_samples,))
            return samples.astype(np.float32) / 32768, content.sample_rate
        finally:
            flite.delete_wave(wave)

    def _open(self, voice: str) -> ctypes.c_void_p:
        path = flite_library(voice) if voice in FLITE_VOICES else None
        if path is None:
            raise RuntimeError(f"flite's voice {voice!r} is not installed (Debian package flite)")
        if self._flite is None:
            self._flite = self._load(Path(path).parent)
        register = getattr(ctypes.CDLL(path), f"register_{FLITE_VOICES[voice]}")
        register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        handle = ctypes.c_void_p(register(None))
        self._voices[voice] = handle
        return handle

    @staticmethod
    def _load(folder: Path) -> ctypes.CDLL:
        # The voices find flite's own functions among the symbols loaded for all.
        for name in ("libflite", "libflite_usenglish", "libflite_cmulex"):
            found = sorted(folder.glob(f"{name}.so*"))
            library = ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
            if name == "libflite":
                flite = library
        flite.flite_init()
        flite.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
        flite.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        flite.delete_wave.argtypes = [ctypes.POINTER(_Wave)]
        flite.feat_set_float.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]
        return flite
