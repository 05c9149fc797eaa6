"""espeak-ng as a library, by ctypes: text to samples in memory, without files or a sub-process.

The package espeakng-loader carries the shared library and its voices. The library keeps one global
state: one `Espeak` a process (the recipe runs several processes).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARS_UTF8 = 1
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_PARAMETER

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """A synthesiser: `Espeak().say("one two", voice="en-us+f3")` gives float32 samples in [-1, 1].

    Raises `RuntimeError` where the library or its data cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise RuntimeError(
                "espeak-ng is needed to synthesise speech: pip install espeakng-loader"
            ) from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        self.sample_rate: int = self._library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(Path(data).parent), 0
        )
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng could not be started with its data in {data}")
        self._chunks: list[np.ndarray] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only the pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # go on

    def say(
        self, text: str, *, voice: str = "en-us", rate: int = 175, pitch: int = 50, range: int = 50
    ) -> np.ndarray:
        """The samples (S,) of `text`, at `sample_rate`, float32.

        `rate` is in words a minute (80 to 450), `pitch` and `range` from 0 to 100. A voice is a
        language, optionally with a variant: "en-us+m3". The same words twice differ a little: the
        voices flutter. Raises `ValueError` for an unknown voice (not for an unknown variant).
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, range)):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        self._chunks = []
        data = text.encode()
        status = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, CHARS_UTF8, None, None
        )
        self._library.espeak_Synchronize()
        if status != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng could not say {text!r} with the voice {voice!r}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768
