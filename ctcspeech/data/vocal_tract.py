"""The cepstra of another length of the vocal tract, computed from cepstra alone.

A longer vocal tract moves all resonances down by the same factor. What that does to a log mel
spectrum is linear, so it is linear for cepstra, which are its cosine transform (Pitz and Ney,
"Vocal tract normalization equals linear transformation in cepstral space", IEEE Transactions on
Speech and Audio Processing 13(5), 2005). Drawn at random while training it stands for speakers who
were not recorded (Jaitly and Hinton, "Vocal tract length perturbation (VTLP) improves speech
recognition", ICML workshop, 2013).
"""

import numpy as np

__all__ = ["warp_of_cepstra"]

_POINTS = 128  # of the mel axis, for the transform's sums
_LINEAR_SHARE = 0.7  # of the range is scaled; above, a straight line keeps its end in place


def warp_of_cepstra(factor: float, count: int, low_hz: float, high_hz: float) -> np.ndarray:
    """The matrix (F, F) by which cepstra c_0 .. c_{F-1} become those of a changed vocal tract.

    Args:
        factor: by which the frequencies of all resonances are multiplied; 1 changes nothing.
        count: F; the cepstra are the cosine transform (DCT-II, all of one scale, as those of HTK
            and Sphinx) of log energies of filters evenly spread on the mel scale.
        low_hz, high_hz: the range of these filters.

    Up to 0.7 of `high_hz` frequencies are scaled, above that a straight line leads to `high_hz`, so
    that the range is kept (as Jaitly and Hinton, equation 1). What F cepstra do not say of
    the spectrum, the finer part, is lost in between as it was before.
    """
    low, high = _mel(low_hz), _mel(high_hz)
    place = (np.arange(_POINTS) + 0.5) / _POINTS  # of the mel range, 0 to 1
    heard = _hz(low + place * (high - low))
    # The energy now found at `heard` was at `source` before.
    knee = _LINEAR_SHARE * high_hz * min(factor, 1.0)
    rest = (high_hz - knee / factor) / (high_hz - knee)
    source = np.where(heard <= knee, heard / factor, high_hz - rest * (high_hz - heard))
    at = np.clip((_mel(source) - low) / (high - low), 0.0, 1.0)
    order = np.arange(count)
    scale = np.where(order == 0, 1.0, 2.0) / _POINTS  # of the transform's inverse
    spectra = scale * np.cos(np.pi * at[:, None] * order)  # (points, F): of each cepstrum alone
    return (np.cos(np.pi * order[:, None] * place) @ spectra).astype(np.float32)


def _mel(hz: np.ndarray | float) -> np.ndarray:
    return np.log1p(np.asarray(hz) / 700.0)


def _hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * np.expm1(mel)
