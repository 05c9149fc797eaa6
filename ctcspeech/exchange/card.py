"""The card of an exported model: README.md with YAML at its head, as model hubs show it."""

from pathlib import Path
from typing import Any

from ctcspeech import __version__
from ctcspeech.exchange.onnx_model import OnnxEmitter
from ctcspeech.files import atomic_write

__all__ = ["write_card"]

_HEAD = """---
license: # fill in: of the weights, which the licence of the training data may bind
language: # fill in
tags: [automatic-speech-recognition, ctc, onnx, ctcspeech]
---

# {name}

A CTC speech recogniser trained with ctcspeech {version}. What it was trained on, for what and whom,
and where it fails: fill in.
"""


def write_card(exported: Any, rates: dict[str, str], manifest: str) -> Path:
    """Writes README.md. rates: of each file, in words; measured on `manifest`."""
    emitter = OnnxEmitter.load(exported.folder / "model.onnx")
    text = _HEAD.format(name=exported.folder.resolve().name, version=__version__)
    text += (
        "\n| file | bytes | largest difference of a log-probability from torch | error rates |\n"
    )
    text += "|---|---|---|---|\n"
    for name, difference in exported.difference.items():
        size = (exported.folder / name).stat().st_size
        text += f"| {name} | {size:,} | {difference:.2g} | {rates.get(name, 'not measured')} |\n"
    if manifest:
        text += f"\nError rates as the folder decodes by itself, on {manifest}.\n"
    text += (
        f"\nSamples at {emitter.sample_rate} Hz, a frame of emissions every "
        f"{emitter.frame_shift_ms:g} ms, {len(emitter.alphabet)} labels, the blank has index "
        f"{emitter.blank}.\n\n## Use\n\n```sh\npip install ctcspeech\n"
        "ctcspeech transcribe THIS_FOLDER recording.wav\n```\n"
    )
    if emitter.contract.layout == "NFT":
        text += _ELSEWHERE
    target = exported.folder / "README.md"
    with atomic_write(target) as file:
        file.write(text)
    return target


_ELSEWHERE = """
In sherpa-onnx and onnx-asr the same file:

```python
import sherpa_onnx
recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc("model.onnx", tokens="tokens.txt")

import onnx_asr
model = onnx_asr.load_model("nemo-conformer-ctc", "THIS_FOLDER")
```
"""
