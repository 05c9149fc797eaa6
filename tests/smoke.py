"""A few results by hand, for an installation with NumPy and nothing else.

python tests/smoke.py
"""

import math
import sys

import numpy as np

import ctcspeech
from ctcspeech import _core, ctc


def main() -> None:
    # One frame of three equal classes; two frames, of which label 1 may take the first, the second
    # or both: 3 of 9 paths.
    loss, gradient = ctc.loss_and_grad(np.zeros((1, 2, 3), np.float32), [[1], [2]], 1, 1)
    assert abs(loss - math.log(3)) < 1e-6, loss
    assert np.allclose(gradient[0, 0], [1 / 6, -1 / 3, 1 / 6]), gradient
    loss, _ = ctc.loss_and_grad(np.zeros((2, 1, 3)), [[1]], 2, 1)
    assert abs(loss - math.log(3)) < 1e-12, loss
    assert ctc.posteriors(np.zeros((1, 3)), [1], 1, 1).tolist() == [[0, 1, 0]]
    (alignment,) = ctcspeech.forced_align(np.eye(3)[[1, 0, 2, 2]] * 9, [1, 2])
    assert alignment.path.tolist() == [1, 0, 2, 2], alignment.path
    print(f"ctcspeech {ctcspeech.__version__}, {', '.join(_core.available_isas())}: good")


if __name__ == "__main__":
    sys.exit(main())
