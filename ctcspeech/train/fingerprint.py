"""What a run was trained on, so that a run that goes on notices other data.

`data.npz` in the run's folder holds a JSON text `record` and, for each manifest, the size in bytes
of the file of each line. A digest of the manifests' bytes and of the alphabet's file, and the sizes
of all recordings, of noises and of rooms are compared: enough to notice data that were made anew,
at the cost of looking up each file once (no recording is read). A tar file's size stands for its
members; what is at a URL is not looked up. No language model takes part in training (validation
decodes greedily), so none is compared.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctcspeech.data.indexed import MISSING, IndexedManifest
from ctcspeech.errors import CheckpointError
from ctcspeech.files import NUMPY_ERRORS, atomic_write
from ctcspeech.train.config import RunConfig

__all__ = ["FILE", "Fingerprint", "changes", "fingerprint"]

FILE = "data.npz"
FORMAT, VERSION = "ctcspeech training data", 1


@dataclass
class Fingerprint:
    """`files`: a digest by file (manifests, the alphabet). `sizes`: by manifest or folder, bytes of
    the files of its lines, or of its files in the order of their names; int64."""

    files: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, run: Path) -> None:
        record = {
            "format": FORMAT,
            "version": VERSION,
            "files": self.files,
            "sizes": list(self.sizes),
        }
        arrays: dict[str, Any] = {f"sizes{i}": a for i, a in enumerate(self.sizes.values())}
        with atomic_write(run / FILE, "wb") as file:
            np.savez_compressed(file, record=np.array(json.dumps(record)), **arrays)

    @classmethod
    def load(cls, run: Path) -> "Fingerprint | None":
        """None where the run has none. Raises CheckpointError for a damaged file."""
        path = run / FILE
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                record = json.loads(str(stored["record"]))
                if record["format"] != FORMAT or record["version"] != VERSION:
                    raise ValueError(f"its version {record['version']!r} is not {VERSION}")
                sizes = {name: stored[f"sizes{i}"] for i, name in enumerate(record["sizes"])}
                if any(a.ndim != 1 or a.dtype.kind != "i" for a in sizes.values()):
                    raise ValueError("sizes must be integers")
                return cls(dict(record["files"]), sizes)
        except NUMPY_ERRORS as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); with --force the run goes on without it"
            ) from error


def fingerprint(config: RunConfig, manifests: IndexedManifest) -> Fingerprint:
    """Of the data of a run: its manifests, its alphabet, noises and rooms."""
    found = Fingerprint()
    for path in manifests.paths:
        found.files[str(path)] = _digest(path)
        found.sizes[str(path)] = manifests.of_file(path).sizes
    if config.data.alphabet is not None:
        found.files[str(config.data.alphabet)] = _digest(config.data.alphabet)
    augment = config.augment
    for folder, share in (
        (augment.noise_folder, augment.noise_probability),
        (augment.rir_folder, augment.rir_probability),
    ):
        if folder is not None and share:
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            found.sizes[str(folder)] = np.array([p.stat().st_size for p in files], np.int64)
    return found


def changes(before: Fingerprint, now: Fingerprint, manifests: IndexedManifest) -> list[str]:
    """A line for each thing that differs, naming it; none where nothing does."""
    lines = []
    for path, digest in now.files.items():
        if before.files.get(path, digest) != digest:
            then, today = (len(f.sizes.get(path, ())) for f in (before, now))
            counts = f": {then} utterances then, {today} now" if today else ""
            lines.append(f"{path} has another content{counts}")
    for key, sizes in now.sizes.items():
        old: Any = before.sizes.get(key)
        if old is None or before.files.get(key) != now.files.get(key):
            continue  # another folder, which the configuration tells; or told above
        if len(old) != len(sizes):
            lines.append(f"{key}: {len(old)} files then, {len(sizes)} now")
            continue
        other = np.flatnonzero(old != sizes)
        if not len(other):
            continue
        first, example = int(other[0]), ""
        if key in now.files:
            name = manifests.of_file(Path(key))[first].path
            example = f", e.g. {name}: {_bytes(old[first])} then, {_bytes(sizes[first])} now"
        lines.append(f"{key}: {len(other)} of {len(sizes)} files have another size{example}")
    return lines


def _digest(path: Path) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    except OSError:
        return "missing"  # reported where it is read
    return hasher.hexdigest()


def _bytes(size: int) -> str:
    return "missing" if size == MISSING else f"{size} bytes"
