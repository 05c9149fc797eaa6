"""Who speaks the synthetic digits: accents, spellings for foreign tongues, espeak-ng's variants.

A voice is an accent and a variant (its pitch, formants, breath). Accents are espeak-ng's English
ones and, for the speaker whose first language is another, voices of other languages that read an
English digit as they would spell its sound. espeak-ng's own voices synthesise from formants, so
variants move them as different vocal tracts do.
"""

from __future__ import annotations

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

ENGLISH = (
    "en-us",
    "en-us-nyc",
    "en",  # British
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)

# How a reader of that language would have to see the English digits to say them, in DIGITS' order.
FOREIGN = {
    "de": ("sieroh", "wann", "tuh", "srie", "fohr", "faif", "sicks", "sewwen", "äit", "nein"),
    "fr": ("ziro", "ouane", "tou", "sri", "fore", "faïve", "sixe", "sévenne", "éite", "naïne"),
    "it": ("zirou", "uan", "tu", "tri", "foor", "faiv", "sics", "seven", "eit", "nain"),
    "es": ("sirou", "uan", "tu", "zri", "for", "faiv", "sics", "seven", "eit", "nain"),
    "nl": ("ziero", "wan", "toe", "srie", "foor", "fajf", "siks", "sevven", "eet", "najn"),
    "pl": ("ziroł", "łan", "tu", "tri", "for", "fajw", "siks", "sewen", "ejt", "najn"),
    "pt": ("zirou", "uan", "tu", "tri", "fór", "faive", "sics", "séven", "eite", "naine"),
    "sv": ("siråo", "oann", "to", "tri", "får", "fajv", "sicks", "sevven", "ejt", "najn"),
}

VARIANTS = tuple(
    """
    m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 klatt5 klatt6
    croak whisper whisperf Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique
    Hugo Jacky Lee Marco Mario Michael Mike Nguyen Reed Storm adam anika antonio aunty
    belinda benjamin boris caleb david ed edward edward2 grandma grandpa gustave ian
    iven iven2 john linda marcelo max michel miguel mike2 norbert pablo paul pedro
    quincy rob robert sandro shelby steph steph2 steph3 travis victor zac
    """.split()
)

# Kept out of training: the synthetic test is spoken by these.
TEST_VARIANTS = ("m3", "f2", "Michael", "Alicia", "edward", "steph2", "grandpa", "klatt4")


def spelling(digit: int, accent: str) -> str:
    """What the synthesiser is given to read for a digit in an accent."""
    return FOREIGN[accent][digit] if accent in FOREIGN else DIGITS[digit]
