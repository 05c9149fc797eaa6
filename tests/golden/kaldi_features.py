"""Makes kaldi_features.ark, .scp and .npz beside it: matrices as Kaldi stores them.

    pip install kaldiio; python tests/golden/kaldi_features.py

kaldiio 2.18.1 wrote the archive; what it reads back stands in the .npz.
"""

from pathlib import Path

import kaldiio
import numpy as np

HERE = Path(__file__).parent
FORMS = {"cm": 2, "cm2": 3, "cm3": 5}  # Kaldi's names of its compression methods

random = np.random.default_rng(0)
matrix = (random.standard_normal((11, 5)) * [1, 10, 0.1, 5, 3] + [0, 3, -1, 50, 0]).astype("f4")
archive, index = HERE / "kaldi_features.ark", HERE / "kaldi_features.scp"
archive.unlink(missing_ok=True)
index.unlink(missing_ok=True)


def write(name: str, value: np.ndarray, **options: int) -> None:
    kaldiio.save_ark(str(archive), {name: value}, scp=str(index), append=True, **options)


write("float", matrix)
write("double", matrix.astype("f8"))
for name, method in FORMS.items():
    write(name, matrix, compression_method=method)
lines = [line.split(" ", 1) for line in index.read_text().splitlines()]
np.savez(
    HERE / "kaldi_features.npz",
    original=matrix,
    **{name: np.asarray(kaldiio.load_mat(place), "f4") for name, place in lines},
)
index.write_text("".join(f"{name} {place.rsplit('/', 1)[1]}\n" for name, place in lines))
