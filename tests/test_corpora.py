import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ctcspeech import read_manifest, write_manifest
from ctcspeech.data.corpora import KINDS, import_corpus
from ctcspeech.errors import ManifestError, MissingPackageError
from ctcspeech.text.normalize import Normalizer

RATE = 8000


def wave(path: Path, seconds: float = 0.5, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(len(str(path))).standard_normal(round(seconds * RATE))
    soundfile.write(path, samples, RATE, **options)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def facts(utterances):
    return {u.id: (u.text, u.speaker, u.duration, u.offset) for u in utterances}


def test_librispeech(tmp_path):
    for subset, speaker in [("train-clean-100", "19"), ("test-clean", "61")]:
        chapter = tmp_path / "LibriSpeech" / subset / speaker / "198"
        for i in range(2):
            wave(chapter / f"{speaker}-198-000{i}.flac", 0.5 + i)
        lines = f"{speaker}-198-0000 IT'S ONE\n{speaker}-198-0001 TWO\n{speaker}-198-0002 GONE\n"
        write(chapter / f"{speaker}-198.trans.txt", lines)
    found = import_corpus("librispeech", tmp_path / "LibriSpeech", normalizer=Normalizer())
    assert set(found.splits) == {"train-clean-100", "test-clean"}
    assert facts(found.splits["test-clean"]) == {
        "61-198-0000": ("it's one", "61", 0.5, 0.0),
        "61-198-0001": ("two", "61", 1.5, 0.0),
    }
    assert len(found.problems) == 2 and "trans.txt:3: no recording" in found.problems[0]
    # One subset alone
    alone = import_corpus("librispeech", tmp_path / "LibriSpeech/test-clean")
    assert [u.text for u in alone.splits["test-clean"]] == ["IT'S ONE", "TWO"]


def test_deepspeech(tmp_path):
    wave(tmp_path / "clips/a.wav")
    outside = wave(tmp_path / "b.wav", 1.0)
    write(
        tmp_path / "set" / "train.csv",
        "wav_filename,wav_filesize,transcript\n"
        f'../clips/a.wav,8044,"hello, you"\n{outside},16044,two\n,1,lost\n',
    )
    found = import_corpus("deepspeech", tmp_path / "set/train.csv")
    assert facts(found.splits["train"]) == {
        "a": ("hello, you", None, 0.5, 0.0),
        "b": ("two", None, 1.0, 0.0),
    }
    assert "train.csv:4" in found.problems[0]
    assert set(import_corpus("deepspeech", tmp_path / "set").splits) == {"train"}
    write(tmp_path / "set" / "bad.csv", "file,text\na,b\n")
    with pytest.raises(ManifestError, match=r"bad\.csv:1: .*wav_filename"):
        import_corpus("deepspeech", tmp_path / "set/bad.csv")


def test_commonvoice(tmp_path):
    for name in ("a", "b", "c"):
        wave(tmp_path / "clips" / f"{name}.wav")
    header = "client_id\tpath\tsentence\tup_votes\n"
    write(tmp_path / "train.tsv", header + 'x1\ta.wav\tShe said "no.\t2\nx2\tb.wav\tÉcoute !\t2\n')
    write(tmp_path / "test.tsv", header + "x3\tc.wav\tThree\t2\n")
    write(tmp_path / "invalidated.tsv", header + "x3\tc.wav\tWrong\t2\n")
    found = import_corpus("commonvoice", tmp_path, normalizer=Normalizer())
    assert {k: [u.text for u in v] for k, v in found.splits.items()} == {
        "train": ["she said no", "écoute"],
        "test": ["three"],
    }
    assert found.splits["train"][1].speaker == "x2"
    one = import_corpus("commonvoice", tmp_path / "invalidated.tsv").splits
    assert [u.text for u in one["invalidated"]] == ["Wrong"]


def kaldi_folder(tmp_path):
    folder = tmp_path / "egs" / "data" / "train"
    wave(tmp_path / "egs" / "audio" / "r1.wav", 2.0)
    wave(tmp_path / "egs" / "audio" / "r2.wav", 1.0)
    write(folder / "wav.scp", f"r1 audio/r1.wav\nr2 {tmp_path}/egs/audio/r2.wav\n")
    write(folder / "text", "r1 one two\nr2 three\nr3 nothing\n")
    write(folder / "utt2spk", "r1 anna\nr2 bert\n")
    return folder


def test_kaldi(tmp_path):
    found = import_corpus("kaldi", kaldi_folder(tmp_path))
    assert facts(found.splits["train"]) == {
        "r1": ("one two", "anna", 2.0, 0.0),
        "r2": ("three", "bert", 1.0, 0.0),
    }
    assert len(found.problems) == 1 and "r3 has a text but no recording" in found.problems[0]


def test_kaldi_segments(tmp_path):
    folder = kaldi_folder(tmp_path)
    write(folder / "text", "a one\nb two\nc three\nd four\ne five\n")
    write(folder / "utt2spk", "a anna\n")
    write(
        folder / "segments",
        "a r1 0.25 1.00\nb r1 1.5 2.2\nc r2 0.5 -1\nd r9 0 1\ne r2 0.5 3.5\n",
    )
    found = import_corpus("kaldi", folder)
    assert facts(found.splits["train"]) == {
        "a": ("one", "anna", 0.75, 0.25),
        "b": ("two", None, 0.5, 1.5),  # ends a little after the recording
        "c": ("three", None, 0.5, 0.5),
    }
    text = "\n".join(found.problems)
    assert "d names r9" in text and "from 0.5 s is to have 3 s" in text
    assert import_corpus("kaldi", folder, quick=True).splits == found.splits


def test_kaldi_pipe_is_refused(tmp_path):
    folder = kaldi_folder(tmp_path)
    write(folder / "wav.scp", "r1 sph2pipe -f wav a.sph |\n")
    with pytest.raises(ManifestError, match="r1 is the output of a command.*wav-copy"):
        import_corpus("kaldi", folder)


def test_kaldi_features(tmp_path):
    folder = kaldi_folder(tmp_path)
    (folder / "wav.scp").unlink()
    frames = np.arange(6, dtype="<f4").reshape(3, 2)
    matrix = b"r1 \0BFM " + struct.pack("<bibi", 4, 3, 4, 2) + frames.tobytes()
    (folder / "f.ark").write_bytes(matrix)
    write(folder / "feats.scp", f"r1 {folder}/f.ark:3\nr2 {folder}/f.ark:3[0:1]\n")
    found = import_corpus("kaldi", folder)
    (utterance,) = found.splits["train"]
    assert utterance.features_filepath == Path(f"{folder}/f.ark:3")
    assert (utterance.duration, utterance.audio_filepath) == (0.03, None)
    assert any("copy-feats" in problem for problem in found.problems)


def an4_folder(root):
    write(root / "etc/an4_train.fileids", "an4_clstk/fash/an251-fash-b\nan4_clstk/fash/x-fash-b\n")
    write(
        root / "etc/an4_train.transcription",
        "<s> YES </s> (an251-fash-b)\n<s> NO WAY </s> (x-fash-b)\n",
    )
    write(root / "etc/an4_test.fileids", "an4test_clstk/fcaw/an406-fcaw-b\n")
    write(root / "etc/an4_test.transcription", "RUBOUT G M (an406-fcaw-b)\n")
    return root


def test_an4_audio(tmp_path):
    root = an4_folder(tmp_path / "an4")
    wave(root / "wav/an4_clstk/fash/an251-fash-b.sph", format="NIST")
    wave(root / "wav/an4test_clstk/fcaw/an406-fcaw-b.sph", format="NIST")
    found = import_corpus("an4", tmp_path, normalizer=Normalizer())
    assert facts(found.splits["train"]) == {"an251-fash-b": ("yes", "fash", 0.5, 0.0)}
    assert facts(found.splits["test"]) == {"an406-fcaw-b": ("rubout g m", "fcaw", 0.5, 0.0)}
    assert found.problems == [
        f"{root}/etc/an4_train.fileids:2: no recording for an4_clstk/fash/x-fash-b"
    ]
    assert list(import_corpus("an4", root, split="test").splits) == ["test"]
    with pytest.raises(ManifestError, match="no split 'dev', only test, train"):
        import_corpus("an4", root, split="dev")
    with pytest.raises(ManifestError, match="several splits"):
        import_corpus("an4", root, single=True)


def test_an4_features(tmp_path):
    root = an4_folder(tmp_path)
    for name in (
        "an4_clstk/fash/an251-fash-b",
        "an4_clstk/fash/x-fash-b",
        "an4test_clstk/fcaw/an406-fcaw-b",
    ):
        path = root / "feat" / f"{name}.mfc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack(">i", 26) + np.zeros(26, ">f4").tobytes())
    path.write_bytes(b"\0\0")  # the last, damaged
    found = import_corpus("an4", root)
    assert facts(found.splits["train"]) == {
        "an251-fash-b": ("YES", "fash", 0.02, 0.0),
        "x-fash-b": ("NO WAY", "fash", 0.02, 0.0),
    }
    assert found.splits["test"] == [] and "an406-fcaw-b.mfc" in found.problems[0]


def test_an4_raw_is_refused(tmp_path):
    root = an4_folder(tmp_path)
    write(root / "wav/an4_clstk/fash/an251-fash-b.raw", "x")
    with pytest.raises(ManifestError, match="an4_sphere"):
        import_corpus("an4", root)


def test_ljspeech(tmp_path):
    wave(tmp_path / "wavs/LJ1.wav")
    wave(tmp_path / "wavs/LJ2.wav")
    write(tmp_path / "metadata.csv", "LJ1|In 1984|In nineteen eighty four\nLJ2|two\nLJ3|x|x\n")
    found = import_corpus("ljspeech", tmp_path)
    (utterances,) = found.splits.values()
    assert [(u.id, u.text) for u in utterances] == [
        ("LJ1", "In nineteen eighty four"),
        ("LJ2", "two"),
    ]
    assert found.problems == [f"{tmp_path}/metadata.csv:3: no recording wavs/LJ3.wav"]


def test_folder_with_damaged_recordings(tmp_path):
    wave(tmp_path / "anna/a.wav")
    write(tmp_path / "anna/a.txt", "Hello\nyou.\n")
    wave(tmp_path / "b.flac")
    write(tmp_path / "b.lab", "two")
    wave(tmp_path / "lonely.wav")
    cut = wave(tmp_path / "cut.wav")
    os.truncate(cut, 3000)
    write(tmp_path / "cut.txt", "cut")
    write(tmp_path / "text.wav", "no audio")
    write(tmp_path / "text.txt", "text")
    seen = []
    found = import_corpus(
        "folder",
        tmp_path,
        normalizer=Normalizer(),
        started=seen.append,
        advance=lambda count, seconds: seen.append(seconds),
    )
    assert facts(found.splits[tmp_path.name]) == {
        "a": ("hello you", "anna", 0.5, 0.0),
        "b": ("two", None, 0.5, 0.0),
    }
    assert seen == [4, 0.5, 0.5, 0.0, 0.0]
    text = "\n".join(found.problems)
    assert len(found.problems) == 3
    assert all(name in text for name in ("lonely.wav", "cut.wav", "text.wav"))


def test_texts_that_are_no_utf8(tmp_path):
    wave(tmp_path / "f/a.wav")
    wave(tmp_path / "f/b.wav")
    write(tmp_path / "f/a.txt", "good")
    (tmp_path / "f/b.txt").write_bytes(b"caf\xe9")
    found = import_corpus("folder", tmp_path / "f")
    assert [u.text for u in found.splits["f"]] == ["good"]
    assert len(found.problems) == 1 and "b.txt is not UTF-8" in found.problems[0]
    (tmp_path / "t.csv").write_bytes(b"wav_filename,wav_filesize,transcript\nf/a.wav,1,caf\xe9\n")
    with pytest.raises(ManifestError, match=r"t\.csv:\d+: cannot be read"):
        import_corpus("deepspeech", tmp_path / "t.csv")
    write(tmp_path / "empty.csv", "")
    with pytest.raises(ManifestError, match="found: none"):
        import_corpus("deepspeech", tmp_path / "empty.csv")


def test_manifest_without_durations(tmp_path):
    wave(tmp_path / "a.wav", 2.0)
    lines = [
        {"audio_filepath": "a.wav", "text": "One"},
        {"audio_filepath": "a.wav", "text": "two", "duration": 9, "lang": "en"},
        {"audio_filepath": "a.wav", "text": "three", "duration": 0.5, "offset": 1.0},
        {"audio_filepath": "none.wav", "text": "four"},
        {"text": "five"},
    ]
    write(tmp_path / "m.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = import_corpus("manifest", tmp_path / "m.jsonl")
    assert [u.duration for u in found.splits["m"]] == [2.0, 2.0, 0.5]
    assert found.splits["m"][1].extra == {"lang": "en"}
    assert len(found.problems) == 2
    write_manifest(tmp_path / "n.jsonl", found.splits["m"])
    assert not any(math.isnan(u.duration) for u in read_manifest(tmp_path / "n.jsonl"))


def test_nothing_found(tmp_path):
    for kind in set(KINDS) - {"manifest"}:
        try:
            with pytest.raises(ManifestError, match=str(tmp_path)):
                import_corpus(kind, tmp_path)
        except MissingPackageError as error:  # kinds that other packages read, where these are not
            assert "ctcspeech[import]" in str(error)
    with pytest.raises(ManifestError, match="does not exist"):
        import_corpus("folder", tmp_path / "none")
    with pytest.raises(ManifestError, match="kind must be one of"):
        import_corpus("timit", tmp_path)


@pytest.mark.data
def test_real_an4(data_folder):
    found = import_corpus("an4", data_folder / "an4_mfcc", normalizer=Normalizer())
    assert {name: len(items) for name, items in found.splits.items()} == {"train": 948, "test": 130}
    assert sum(len(u.text.split()) for u in found.splits["test"]) == 773
    assert found.problems == []
    speakers = {u.speaker for items in found.splits.values() for u in items}
    assert len(speakers) == 84
