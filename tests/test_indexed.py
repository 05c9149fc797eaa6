"""Manifests that are looked up line by line: what `read_manifest` gives, and what is wrong."""

import json
import pickle

import numpy as np
import pytest

from ctcspeech.data.indexed import MISSING, IndexedManifest
from ctcspeech.data.manifest import read_manifest
from ctcspeech.errors import ManifestError
from ctcspeech.text.normalize import Normalizer

LINES = [
    {"audio_filepath": "a.wav", "duration": 2.5, "text": "Hello"},
    {"audio_filepath": "sub/b.flac", "duration": 3, "text": "héllo you", "speaker": "ann"},
    {"audio_filepath": "a.wav", "duration": 1.0, "text": "x", "offset": 0.5, "lang": ["en"]},
    {"features_filepath": "f.ark:12", "duration": 1, "text": "", "id": 7, "speaker": 3},
    {"audio_filepath": "t.tar:512:40", "duration": 1.5, "text": None},
    {"audio_filepath": "s3://bucket/t.tar:1:2", "duration": 1.5, "text": "z"},
]


@pytest.fixture
def manifests(tmp_path):
    """Two files of the same lines, one with a mark at its beginning, empty lines and no end."""
    for name, size in (("a.wav", 30), ("f.ark", 40), ("t.tar", 50)):
        (tmp_path / name).write_bytes(b"x" * size)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES)
    (tmp_path / "one.jsonl").write_text(text)
    (tmp_path / "two.jsonl").write_text("\ufeff\n" + text.replace("\n", "\r\n\n").rstrip())
    return [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]


def test_the_same_as_read_at_once(manifests):
    expected = [utterance for path in manifests for utterance in read_manifest(path)]
    manifest = IndexedManifest.read(manifests)
    assert list(manifest) == expected and len(manifest) == 12
    assert manifest.durations.tolist() == [u.duration for u in expected]
    assert manifest.sizes.tolist() == 2 * [30, MISSING, 30, 40, 50, MISSING]
    assert manifest.text_bytes.tolist() == [len(u.text.encode()) for u in expected]
    assert manifest.characters == set("".join(u.text for u in expected))
    assert list(manifest.texts()) == [u.text for u in expected]
    picked = manifest.select(np.array([11, 0, 7]))
    assert list(picked) == [expected[11], expected[0], expected[7]]
    assert list(manifest[2:5]) == expected[2:5] and manifest[-1] == expected[-1]
    assert list(manifest.of_file(manifests[1])) == expected[6:]
    assert list(pickle.loads(pickle.dumps(picked))) == list(picked)
    first, second = (IndexedManifest.read([path]) for path in manifests)
    assert list(first.joined(second)) == expected
    assert list(first.joined(second).of_file(manifests[1])) == expected[6:]


def test_texts_are_measured_as_they_are_normalised(manifests):
    manifest = IndexedManifest.read(manifests[:1], Normalizer(accents="remove"))
    assert manifest.characters == set("hello youxz")
    assert manifest.text_bytes.tolist() == [5, 9, 1, 0, 0, 1]


def test_a_url_keeps_its_slashes(manifests, tmp_path):
    from ctcspeech.data.manifest import location, write_manifest

    utterance = IndexedManifest.read(manifests)[5]
    assert location(utterance.path) == "s3://bucket/t.tar:1:2"
    write_manifest(tmp_path / "again.jsonl", [utterance])
    assert read_manifest(tmp_path / "again.jsonl") == [utterance]


def test_wrong_lines_are_named(tmp_path):
    path = tmp_path / "m.jsonl"
    good = json.dumps(LINES[0])
    wrong = [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (good.replace("2.5", "-1"), '"duration" must be above 0'),
        (good.replace("2.5", "1e999"), '"duration" must be above 0'),
        (good.replace("2.5", '"2"'), '"duration" must be a number'),
        (good.replace("a.wav", ""), '"audio_filepath"'),
        (good.replace("a.wav", "a\\u0000.wav"), "no zero byte"),
        (good.replace('"Hello"', "3"), '"text" must be a string'),
        (good.replace("}", ', "offset": -1}'), '"offset" must be'),
    ]
    path.write_text("\n".join([good, *(line for line, _ in wrong), good]))
    with pytest.raises(ManifestError) as caught:
        IndexedManifest.read([path])
    lines = str(caught.value).splitlines()
    assert len(lines) == len(wrong)
    for number, (line, (_, words)) in enumerate(zip(lines, wrong, strict=True), 2):
        assert line.startswith(f"{path}:{number}: ") and words in line
    path.write_text("\n".join(["{"] * 30))
    with pytest.raises(ManifestError, match="and 20 more wrong lines"):
        IndexedManifest.read([path])
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ManifestError, match="not UTF-8"):
        IndexedManifest.read([path])
    with pytest.raises(ManifestError, match="cannot read the manifest"):
        IndexedManifest.read([tmp_path])
