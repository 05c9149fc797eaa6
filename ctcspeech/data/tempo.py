"""Another tempo at the same pitch, by overlapping windows (WSOLA; Verhelst and Roelands 1993).

Ours, because what libraries offer is a program of its own or a phase vocoder, which smears the
onsets of consonants.
"""

import numpy as np

__all__ = ["change_tempo"]

_WINDOW_SECONDS = 0.030  # holds two periods of the lowest voice, 67 Hz
_SEARCH_RATE = 4000  # Hz of the coarse search: the harmonics that are heard as pitch
_SEARCH_SECONDS = 0.010  # half a window forth and back covers a period of most voices


def change_tempo(samples: np.ndarray, factor: float, sample_rate: int) -> np.ndarray:
    """Samples (S,) at `factor` times the tempo, float32 (round(S / factor),), pitch unchanged.

    Waveform-similarity overlap-add (WSOLA; Verhelst and Roelands 1993): windows are taken from the
    input at steps of factor * hop and laid down at steps of hop; each is moved by up to 10 ms to
    where it is most like what naturally follows the window before it.
    """
    hop = max(1, round(_WINDOW_SECONDS / 2 * sample_rate))
    reach = round(_SEARCH_SECONDS * sample_rate)
    length = max(1, round(len(samples) / factor))
    if factor == 1.0 or len(samples) < 4 * hop:
        # too short for windows to be exchanged: as it is, cut or with silence behind
        return np.pad(samples[:length], (0, max(0, length - len(samples))))
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)  # two, a hop apart, add to 1
    windows = -(-length // hop) + 1
    last = round(windows * hop * factor) + reach + 3 * hop
    # half a window of silence before, for the first window to have its middle at the beginning
    padded = np.pad(samples, (hop + reach, max(0, last + hop + reach - len(samples))))
    step = max(1, sample_rate // _SEARCH_RATE)
    coarse = padded[: len(padded) - len(padded) % step].reshape(-1, step).mean(1)
    result = np.zeros((windows + 1) * hop, np.float32)
    at = reach
    result[: 2 * hop] = window * padded[at : at + 2 * hop]
    for i in range(1, windows):
        natural = at + hop  # what follows in the recording
        low = round(i * hop * factor)
        # coarsely over all places, then sample by sample about the best of them
        found = _best_match(
            coarse, natural // step, low // step, 2 * reach // step, 2 * hop // step
        )
        begin = max(low, (low // step + found) * step - step)
        end = min(low + 2 * reach, begin + 2 * step)
        at = begin + _best_match(padded, natural, begin, end - begin, 2 * hop)
        result[i * hop : (i + 2) * hop] += window * padded[at : at + 2 * hop]
    return result[hop : hop + length]


def _best_match(samples: np.ndarray, natural: int, low: int, places: int, size: int) -> int:
    """Of the stretches of `size` from `low`, `low` + 1, .. `low` + `places` on, the one whose
    normalised correlation with that from `natural` on is greatest."""
    region = samples[low : low + places + size]
    correlation = np.correlate(region, samples[natural : natural + size])
    energy = np.cumsum(np.square(region))
    power = energy[size - 1 :].copy()
    power[1:] -= energy[:places]
    return int(np.argmax(correlation / np.sqrt(np.maximum(power, 0.0) + 1e-6)))
