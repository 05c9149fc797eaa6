"""Which voices speak a language here: espeak-ng's, and those of flite and festival if installed.

    python recipes/synthetic/voices.py en

A voice is written ENGINE:NAME. espeak-ng synthesises a hundred languages from formants; a name is
an accent and a variant (pitch, formants, breath): `espeak:en-us+f3`. flite's and festival's voices
are made from recordings of real readers (Debian packages flite, festival and festvox-*), and are
the closest to real speech: `flite:slt`, `festival:msu_ru_nsh_clunits`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from flite import FLITE_VOICES, flite_library  # noqa: E402

FESTIVAL_VOICES = Path("/usr/share/festival/voices")
# festival's folders of voices, by the first part of a language's code
FESTIVAL_FOLDERS = {
    "ca": "catalan",
    "cs": "czech",
    "en": "us",
    "fi": "finnish",
    "hi": "hindi",
    "it": "italian",
    "mr": "marathi",
    "ru": "russian",
    "te": "telugu",
}
# Of espeak-ng's variants those that are no one's voice: effects, and languages' own tunings.
NO_VOICES = set(
    "anikaRobot croak Demonic fast fast_test robosoft Tweaky UniRobot whisper whisperf".split()
)
NO_ACCENTS = {"en-shaw"}  # another script


@dataclass(frozen=True, order=True)
class Voice:
    engine: str  # espeak, flite, festival
    name: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"

    @property
    def variant(self) -> str:
        """Who speaks, whatever the accent: what is held out for a test."""
        return f"{self.engine}:{self.name.rpartition('+')[2]}"


def voices_of(language: str, data: Path | None = None) -> list[Voice]:
    """All voices of a language ("en", "ru", "en-gb"), in a fixed order; espeak-ng's may be none.

    data: espeak-ng's folder of data, by default the installed package's.
    """
    if data is None:
        import espeakng_loader

        data = Path(espeakng_loader.get_data_path())
    accents = sorted(
        path.name.lower()
        for path in (data / "lang").rglob("*")
        if path.is_file()
        and any(f"{code}-".startswith(f"{language}-") for code in codes(path))
        and path.name.lower() not in NO_ACCENTS
    )
    variants = sorted(
        path.name
        for path in (data / "voices" / "!v").iterdir()
        if path.name.rstrip("0123456789") not in NO_VOICES and " " not in path.name
    )
    voices = [Voice("espeak", f"{accent}+{name}") for accent in accents for name in variants]
    if language.partition("-")[0] == "en":
        voices += [Voice("flite", name) for name in FLITE_VOICES if flite_library(name)]
    folder = FESTIVAL_VOICES / FESTIVAL_FOLDERS.get(language.partition("-")[0], "none")
    voices += [Voice("festival", path.name) for path in sorted(folder.glob("*"))]
    return voices


def codes(path: Path) -> list[str]:
    """The languages that a file of espeak-ng's folder lang/ says it is: en-us and en."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    words = (line.split() for line in lines)
    return [word[1].lower() for word in words if word[:1] == ["language"] and len(word) > 1]


def held_out(voices: Sequence[Voice], share: float = 0.1) -> set[str]:
    """Variants that no training utterance is spoken by: every tenth of espeak-ng's, by name."""
    names = sorted({voice.variant for voice in voices if voice.engine == "espeak"})
    step = max(1, round(1 / share))
    return set(names[step // 2 :: step])


if __name__ == "__main__":
    for voice in voices_of(sys.argv[1] if len(sys.argv) > 1 else "en"):
        print(voice)
