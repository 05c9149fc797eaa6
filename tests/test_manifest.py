import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcspeech import Utterance, read_manifest, write_manifest
from ctcspeech.data.manifest import read_lines, split_utterances
from ctcspeech.errors import ManifestError


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_reads_nemo_lines(tmp_path):
    path = write(
        tmp_path / "m" / "train.jsonl",
        {"audio_filepath": "audio/a.wav", "duration": 1.5, "text": "hi", "lang": "en", "x": [1]},
        "",
        {"audio_filepath": "/data/b.wav", "duration": 2, "text": "ho", "speaker": 7, "offset": 3.5},
        {"features_filepath": "f.ark:120", "duration": 1, "text": "é", "id": "utt1"},
    )
    first, second, third = read_manifest(path)
    assert first == Utterance(
        tmp_path / "m/audio/a.wav", 1.5, "hi", id="a", extra={"lang": "en", "x": [1]}
    )
    assert (second.audio_filepath, second.speaker, second.offset) == (Path("/data/b.wav"), "7", 3.5)
    assert second.id == "b-3.5"
    assert third.path == third.features_filepath == tmp_path / "m/f.ark:120"
    assert (third.audio_filepath, third.id, third.text) == (None, "utt1", "é")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"duration": 1', "not JSON"),
        ("[1]", "JSON object"),
        ({"duration": 1}, "audio_filepath"),
        ({"audio_filepath": "a.wav"}, '"duration".*missing'),
        ({"audio_filepath": "a.wav", "duration": "1"}, "must be a number"),
        ({"audio_filepath": "a.wav", "duration": True}, "must be a number"),
        ({"audio_filepath": "a.wav", "duration": 0}, "above 0"),
        ({"audio_filepath": "a.wav", "duration": math.nan}, "above 0"),
        ({"audio_filepath": "a.wav", "duration": 1, "offset": -1}, "offset"),
        ({"audio_filepath": "a.wav", "duration": 1, "text": 5}, '"text" must be a string'),
        ({"audio_filepath": 3, "duration": 1}, "must be a string"),
    ],
)
def test_errors_name_file_and_line(line, message, tmp_path):
    good = {"audio_filepath": "a.wav", "duration": 1}
    path = write(tmp_path / "m.jsonl", good, line, good)
    with pytest.raises(ManifestError, match=rf"m\.jsonl:2: .*{message}"):
        read_manifest(path)
    assert [isinstance(item, Utterance) for _, item in read_lines(path)] == [True, False, True]


def test_many_errors_at_once(tmp_path):
    path = write(tmp_path / "m.jsonl", *["x"] * 15)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11 and ":10:" in lines[9] and "5 more" in lines[10]


def test_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"RIFF\xff\xfe")
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(tmp_path / "m.jsonl")


def test_paths_inside_are_relative(tmp_path):
    outside = tmp_path / "else" / "b.wav"
    write_manifest(
        tmp_path / "set" / "m.jsonl",
        [Utterance(tmp_path / "set/audio/a.wav", 1.0), Utterance(outside, 1.0)],
    )
    values = [json.loads(x) for x in (tmp_path / "set/m.jsonl").read_text().splitlines()]
    assert [v["audio_filepath"] for v in values] == ["audio/a.wav", str(outside)]
    (tmp_path / "set").rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved/m.jsonl")[0].path == tmp_path / "moved/audio/a.wav"


utterances = st.builds(
    Utterance,
    audio_filepath=st.sampled_from([Path("/a/b c.wav"), Path("/a/é.flac")]),
    duration=st.floats(0.01, 1e4),
    text=st.text(st.characters(codec="utf-8")),
    speaker=st.none() | st.text(st.characters(codec="utf-8")),
    offset=st.floats(0, 1e4),
    id=st.sampled_from(["", "x1"]),
    features_filepath=st.none() | st.just(Path("/f/g.ark:12")),
    extra=st.dictionaries(st.sampled_from(["lang", "q"]), st.integers() | st.lists(st.booleans())),
)


@given(st.lists(utterances, max_size=4))
@settings(max_examples=60, derandomize=True)
def test_round_trip(tmp_path_factory, items):
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write_manifest(path, items)
    assert read_manifest(path) == items


corpora = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.floats(0.1, 5.0)), min_size=3, max_size=60
)


@given(corpora, st.integers(0, 3))
@settings(max_examples=80, derandomize=True)
def test_splits(items, seed):
    utterances = [Utterance(f"{i}.wav", d, text, speaker=text) for i, (text, d) in enumerate(items)]
    shares = {"dev": 0.2, "test": 0.1}
    groups = {text for text, _ in items}
    if len(groups) < 3:
        with pytest.raises(ManifestError, match="cannot be divided"):
            split_utterances(utterances, shares, "speaker", seed)
        return
    splits = split_utterances(utterances, shares, "speaker", seed)
    assert list(splits) == ["train", "dev", "test"]
    texts = [{u.text for u in split} for split in splits.values()]
    assert all(texts) and sum(map(len, texts)) == len(groups)  # no text in two
    merged = sorted((u for split in splits.values() for u in split), key=lambda u: int(u.id))
    assert merged == utterances
    assert split_utterances(utterances, shares, "speaker", seed) == splits
    largest = max(sum(u.duration for u in utterances if u.text == text) for text in groups)
    total = sum(u.duration for u in utterances)
    for name, share in shares.items():
        seconds = sum(u.duration for u in splits[name])
        assert seconds <= share * total + largest + 1e-6


def test_split_shares_are_kept():
    utterances = [Utterance(f"{i}.wav", 1.0, f"text {i}") for i in range(1000)]
    splits = split_utterances(utterances, {"dev": 0.1, "test": 0.05})
    assert [len(split) for split in splits.values()] == [850, 100, 50]
    assert split_utterances(utterances, {"dev": 0.1, "test": 0.05}, seed=1) != splits
    with pytest.raises(ManifestError, match="no speaker"):
        split_utterances(utterances, {"dev": 0.1}, "speaker")
    with pytest.raises(ValueError, match="by must be"):
        split_utterances(utterances, {"dev": 0.1}, "word")
    with pytest.raises(ValueError, match="shares must be"):
        split_utterances(utterances, {"dev": 1.1})
