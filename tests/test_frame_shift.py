"""The proposed frame shift, by arithmetic, and where it is said."""

import numpy as np
import pytest
import soundfile
from tone_training import CONFIG
from tones import write_corpus

from ctcspeech.data.check import check_manifests
from ctcspeech.data.frame_shift import propose_frame_shift
from ctcspeech.data.manifest import Utterance, write_manifest
from ctcspeech.train.config import load_config
from ctcspeech.train.prepare import Manifests, prepare


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        ([("abcd", 0.4)], (40, 100)),  # 100 ms a label: 2.5 frames of 40 ms
        ([("abcd", 0.399)], (30, 99.75)),
        ([("aab", 0.4)], (40, 100)),  # a repeat needs a blank between: four
        ([("abcd", 0.25)], (20, 62.5)),  # 25 ms allowed
        ([("abcd", 0.02)], (10, 5)),  # none serves
        # In the median slow, but two of a hundred so fast that 1.15 times as fast only 20 ms do.
        ([("abcd", 0.6)] * 98 + [("abcd", 0.1)] * 2, (20, 150)),
        ([("", 1.0)], None),
    ],
)
def test_the_longest_that_serves(utterances, expected):
    found = propose_frame_shift(utterances)
    assert (found is None) if expected is None else found == pytest.approx(expected)


def test_check_and_training_say_so(tmp_path):
    write_corpus(tmp_path, "train", 12, 1)
    write_corpus(tmp_path, "validation", 4, 2)
    (tmp_path / "tones.toml").write_text(CONFIG)
    rate = 8000
    soundfile.write(tmp_path / "fast.wav", 0.1 * np.ones(rate, np.float32), rate)
    manifest = tmp_path / "fast.jsonl"
    write_manifest(manifest, [Utterance(tmp_path / "fast.wav", 1.0, "abcdefghijklmnop")])
    coarse = check_manifests([manifest], frame_shift_ms=40.0)  # 62.5 ms a label
    assert [note for note in coarse.notes if "frames of 20 ms are proposed" in note]
    assert not [note for note in check_manifests([manifest]).notes if "proposed" in note]

    said = []
    overrides = ["model.time_stride=[4]", f"data.train={manifest}"]
    config = load_config(tmp_path / "tones.toml", overrides)
    prepare(config, Manifests.read(config.data), None, said.append)
    assert [line for line in said if "frames of 20 ms are proposed (model.time_stride)" in line]
    said.clear()
    overrides[0] = "model.time_stride=[2]"
    config = load_config(tmp_path / "tones.toml", overrides)
    prepare(config, Manifests.read(config.data), None, said.append)
    assert not [line for line in said if "proposed" in line]
