"""Pen strokes: files, normalisation, features, the importers, and the hands of the recipe."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from ctcspeech import Emissions, Utterance, read_manifest, write_manifest
from ctcspeech.audio.feature_files import load_features
from ctcspeech.cli import app
from ctcspeech.errors import FeatureError, ManifestError
from ctcspeech.pen import NUM_FEATURES, Ink, ink_features, read_inkml, write_inkml
from ctcspeech.pen.collections import read_uji, read_unipen

coordinates = st.floats(-1e4, 1e4, allow_nan=False, width=32)
points = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=coordinates)
strokes = st.lists(points, min_size=1, max_size=4)


def circle(radius=100.0, count=400, centre=(300.0, 500.0)):
    angle = np.linspace(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + centre


# -- strokes


def test_normalized_ink_has_its_height_at_0_and_its_distance_a_quarter():
    ink = Ink([circle()]).normalized()
    y = ink.strokes[0][:, 1]
    assert y.mean() == pytest.approx(0, abs=1e-3)
    assert np.abs(y[:-1]).mean() == pytest.approx(0.25, rel=1e-3)
    assert ink.strokes[0][:, 0].min() == pytest.approx(0)
    # The mean distance of a circle's line from its middle is 2 r / pi.
    assert np.ptp(y) / 2 == pytest.approx(0.25 * math.pi / 2, rel=1e-3)


@given(strokes, st.floats(0.01, 100), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=60, deadline=None)
def test_features_do_not_depend_on_place_and_size(shapes, scale, x, y):
    total = sum(float(np.hypot(*np.diff(s, axis=0).T).sum()) for s in shapes)
    spread = max(float(np.ptp(np.concatenate(shapes)[:, 1])), 1e-9)
    if not 1e-2 < total < 200 * spread:  # a page of lines, or nothing
        return
    here = Ink(shapes).normalized()
    there = Ink([s * scale + [x, y] for s in shapes]).normalized()
    for a, b in zip(here.strokes, there.strokes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(a).max()))


@given(points, st.floats(0.05, 10))
@settings(max_examples=60, deadline=None)
def test_resampled_points_lie_on_the_line_and_apart(shape, spacing):
    length = float(np.hypot(*np.diff(shape, axis=0).T).sum())
    if length / spacing > 5000:
        return
    (line,) = Ink([shape]).resampled(spacing).strokes
    assert len(line) == round(length / spacing) + 1
    np.testing.assert_allclose(line[0], shape[0])
    steps = np.hypot(*np.diff(line, axis=0).T)
    assert (steps <= spacing * (1 + 1e-6) + 1e-9).all()  # along the line they are this far apart


def test_wrong_strokes():
    with pytest.raises(ValueError, match="stroke 1 must be points"):
        Ink([np.zeros((3, 2)), np.zeros((0, 2))])
    with pytest.raises(ValueError, match="not finite"):
        Ink([np.array([[0.0, np.nan]])])
    with pytest.raises(ValueError, match="spacing"):
        Ink([circle()]).resampled(0)


# -- features


def test_features_of_a_circle():
    frames = ink_features(Ink([circle()]), 0.05)
    radius = 0.25 * math.pi / 2
    assert frames.dtype == np.float32 and frames.shape[1] == NUM_FEATURES
    assert len(frames) == pytest.approx(2 * math.pi * radius / 0.05 + 1, abs=1)
    inner = frames[2:-2]
    np.testing.assert_allclose(np.hypot(inner[:, 0], inner[:, 1]), 1, atol=0.02)  # dx, dy
    assert frames[0, 2] == 1 and not frames[1:, 2].any()  # the pen came down once
    np.testing.assert_allclose(np.abs(frames[:, 3]).max(), radius, rtol=0.02)
    np.testing.assert_allclose(np.hypot(inner[:, 4], inner[:, 5]), 1, rtol=1e-5)
    turn = 0.05 / radius  # radians from a step to the next
    np.testing.assert_allclose(inner[:, 6], math.cos(turn), atol=0.01)
    np.testing.assert_allclose(inner[:, 7], math.sin(turn), atol=0.02)


def test_jump_between_strokes():
    frames = ink_features(Ink([[[0, 0], [0, 10]], [[5, 0], [5, 10]]]), 0.1)
    first = int(np.flatnonzero(frames[:, 2])[1])
    # From the end of the first stroke: right, and up by the height, of 1 after normalisation.
    np.testing.assert_allclose(frames[first, :2], [5.0, -10.0], atol=0.05)
    assert ink_features(Ink([])).shape == (0, NUM_FEATURES)
    dot = ink_features(Ink([[[3.0, 4.0]]]))
    assert dot.shape == (1, NUM_FEATURES) and np.isfinite(dot).all()


# -- files


def test_inkml_round_trip(tmp_path):
    ink = Ink([circle(count=30), [[1.5, -2.25]]], "a <b> & c", "ann")
    write_inkml(tmp_path / "a.inkml", ink)
    back = read_inkml(tmp_path / "a.inkml")
    assert back.text == ink.text and back.writer == "ann"
    for a, b in zip(ink.strokes, back.strokes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_array_equal(load_features(tmp_path / "a.inkml", 8), ink_features(back))


def test_inkml_of_others(tmp_path):
    """Channels in another order, groups, hovering, other annotations."""
    (tmp_path / "b.inkml").write_text(
        '<?xml version="1.0"?><ink xmlns="http://www.w3.org/2003/InkML"><traceFormat>'
        '<channel name="T"/><channel name="X"/><channel name="Y"/></traceFormat>'
        '<annotation type="truth">x</annotation><traceGroup>'
        '<trace id="t0">0 10 20, 5 11 21,\n 9 12 22</trace>'
        '<trace type="penUp">0 0 0</trace></traceGroup></ink>'
    )
    ink = read_inkml(tmp_path / "b.inkml")
    assert ink.text == "x"
    np.testing.assert_array_equal(ink.strokes, [[[10, 20], [11, 21], [12, 22]]])


def test_inkml_of_differences(tmp_path):
    """As office programs write it: the changes of the points, and the changes of those."""
    traces = (
        ("1125 18432,'23'43,\"7\"-8,3-5,7 -3,!9!8", [
            [1125, 18432], [1148, 18475], [1178, 18510], [1211, 18540], [1251, 18567], [9, 8],
        ]),
        ("5 6 T,'-1'.5 F,2 -1?,\"0'1e1 *", [[5, 6], [4, 6.5], [6, 5.5], [8, 15.5]]),
    )  # fmt: skip
    body = "".join(f"<trace>{text}</trace>" for text, _ in traces)
    (tmp_path / "d.inkml").write_text(f"<ink>{body}</ink>")
    strokes = read_inkml(tmp_path / "d.inkml").strokes
    for stroke, (_, points) in zip(strokes, traces, strict=True):
        np.testing.assert_array_equal(stroke, points)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<ink><trace>1 2, 3 4", "not XML"),
        ("<svg/>", "its root is <svg>"),
        ("<ink/>", "has no <trace>"),
        ("<ink><trace>1 2, three</trace></ink>", "trace 0: point 2 is no X and Y"),
        ("<ink><trace>1 2, 'a'</trace></ink>", "trace 0: point 2 is no X and Y"),
        ("<ink><trace>1 2, *3</trace></ink>", "trace 0: point 2 is no X and Y"),
        ("<ink><trace>'1'2</trace></ink>", "trace 0: point 1 is no X and Y"),
        ('<ink><trace>1 2, "1"2</trace></ink>', "trace 0: point 2 is no X and Y"),
        ("<ink><trace>1 2, '3'</trace></ink>", "trace 0: point 2 is no X and Y"),
        ("<ink><trace> </trace></ink>", "no point"),
        ("<ink><trace>1 nan</trace></ink>", "not finite"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><ink/>', "DTD"),
    ],
)
def test_wrong_inkml(tmp_path, content, message):
    (tmp_path / "w.inkml").write_text(content)
    with pytest.raises(FeatureError, match=message) as error:
        read_inkml(tmp_path / "w.inkml")
    assert "w.inkml" in str(error.value)
    with pytest.raises(FeatureError, match="w.inkml"):
        load_features(tmp_path / "w.inkml")


def test_missing_inkml(tmp_path):
    with pytest.raises(FeatureError, match="No such file"):
        read_inkml(tmp_path / "none.inkml")


UJI = """// UJI Pen Characters
//
WORD a trn_UJI_W01-01
  NUMSTROKES 1
  POINTS 3 # 10 20 11 25 12 20
WORD A tst_UPV_W22-02
  NUMSTROKES 2
  POINTS 2 # 0 0 5 9
  POINTS 2 # 1 4 4 4
"""


def test_uji(tmp_path):
    (tmp_path / "uji.txt").write_text(UJI)
    first, second = read_uji(tmp_path / "uji.txt")
    assert (first.text, first.writer, first.extra) == ("a", "UJI_W01", {"split": "train"})
    np.testing.assert_array_equal(first.strokes, [[[10, 20], [11, 25], [12, 20]]])
    assert (second.text, second.writer, len(second.strokes)) == ("A", "UPV_W22", 2)
    assert second.extra == {"split": "test"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_letters_of_spanish(tmp_path, encoding):
    (tmp_path / "uji.txt").write_bytes(UJI.replace("WORD a", "WORD ñ").encode(encoding))
    assert [ink.text for ink in read_uji(tmp_path / "uji.txt")] == ["ñ", "A"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WORD A", "WARD A", ":6: not a WORD line"),
        ("NUMSTROKES 2", "NUMSTROKES two", ":7: NUMSTROKES is wanted"),
        ("POINTS 3", "POINTS 4", ":5: not a line of POINTS"),
        ("  POINTS 2 # 1 4 4 4\n", "", "ends before the strokes"),
    ],
)
def test_wrong_uji(tmp_path, old, new, message):
    (tmp_path / "uji.txt").write_text(UJI.replace(old, new))
    with pytest.raises(ManifestError, match=message):
        list(read_uji(tmp_path / "uji.txt"))


UNIPEN = """.VERSION 1.0
.COORD X Y T
.WRITER_ID jo
.PEN_DOWN
1 2 0
3 4 1
.PEN_UP
9 9 2
.PEN_DOWN
5 6 3
.SEGMENT WORD {word} ? "it"
.SEGMENT CHARACTER {character} ? "t"
"""


@pytest.mark.parametrize(
    ("word", "character"), [("0-2", "2"), ("0-1", "1")], ids=["with pen-ups", "pen-downs alone"]
)
def test_unipen(tmp_path, word, character):
    (tmp_path / "u.dat").write_text(UNIPEN.format(word=word, character=character))
    (ink,) = read_unipen(tmp_path / "u.dat")
    assert (ink.text, ink.writer) == ("it", "jo")
    if word == "0-2":
        assert [s.tolist() for s in ink.strokes] == [[[1, -2], [3, -4]], [[5, -6]]]
        (letter,) = read_unipen(tmp_path / "u.dat", "CHARACTER")
        assert letter.text == "t" and letter.strokes[0].tolist() == [[5, -6]]


def test_wrong_unipen(tmp_path):
    (tmp_path / "u.dat").write_text(UNIPEN.format(word="0-7", character="0"))
    with pytest.raises(ManifestError, match=r"u.dat:11: there is no component 7"):
        list(read_unipen(tmp_path / "u.dat"))
    (tmp_path / "u.dat").write_text(".COORD X Y\n.PEN_DOWN\n1 two\n")
    with pytest.raises(ManifestError, match=r"u.dat:3: not a point"):
        list(read_unipen(tmp_path / "u.dat"))
    (tmp_path / "u.dat").write_text(".COORD X T\n")
    with pytest.raises(ManifestError, match=r"u.dat:1: .COORD must name X and Y"):
        list(read_unipen(tmp_path / "u.dat"))
    for wrong in ("2-1-0", "5-2", "0-999999999", ":"):
        (tmp_path / "u.dat").write_text(UNIPEN.format(word=wrong, character="0"))
        with pytest.raises(ManifestError, match=r"u.dat:11: not a range of components"):
            list(read_unipen(tmp_path / "u.dat"))


@pytest.fixture
def prepare(hands, monkeypatch):
    monkeypatch.delitem(sys.modules, "prepare", raising=False)
    import prepare

    yield prepare
    sys.modules.pop("prepare", None)


def test_a_collection_is_divided_by_writers(prepare, tmp_path, monkeypatch, capsys):
    for writer in "abcdef":
        text = UNIPEN.format(word="0-2", character="2").replace("jo", writer)
        (tmp_path / f"{writer}.dat").write_text(text)
    source = ["prepare.py", str(tmp_path / "data"), "--unipen", str(tmp_path)]
    for level, text in (("WORD", "it"), ("CHARACTER", "t")):
        monkeypatch.setattr(sys, "argv", [*source, "--level", level])
        prepare.main()
        speakers = {}
        for name in ("train", "dev", "test"):
            items = read_manifest(tmp_path / "data" / f"{name}.jsonl")
            assert {item.text for item in items} == {text}
            speakers[name] = {item.speaker for item in items}
        assert speakers["test"] == {"f"}
        assert speakers["train"] | speakers["dev"] == set("abcde")
    monkeypatch.setattr(sys, "argv", [*source, "--level", "TEXT"])
    with pytest.raises(SystemExit, match="no labelled segment of level TEXT"):
        prepare.main()
    monkeypatch.setattr(sys, "argv", [*source[:-1], str(tmp_path / "a.dat")])
    with pytest.raises(SystemExit, match="all pieces are by one writer"):
        prepare.main()


# -- through the whole: a manifest, training, transcription, a picture


def test_from_strokes_to_text(hands, tmp_path):
    """A small network learns two words of one hand, by the command line alone."""
    pytest.importorskip("torch")
    for name, count, begin in (("train", 48, 0), ("dev", 8, 900)):
        utterances = []
        for i in range(count):
            ink = hands.write(("on", "at", "on at")[i % 3], hands.Hand.of(1), begin + i)
            path = tmp_path / f"{name}{i}.inkml"
            write_inkml(path, ink)
            seconds = len(ink_features(ink)) / 100
            utterances.append(Utterance(None, seconds, ink.text, features_filepath=path))
        write_manifest(tmp_path / f"{name}.jsonl", utterances)
    config = (Path(__file__).parents[1] / "recipes/pen/pen.toml").read_text()
    (tmp_path / "data").symlink_to(tmp_path)
    (tmp_path / "pen.toml").write_text(config)
    small = ["model.channels=[16]", "model.hidden=24", "model.layers=1", "train.epochs=12"]
    small += ["train.learning_rate=1e-2", "model.dropout=0", "train.tensorboard=false"]
    run = str(tmp_path / "run")
    invoke("train", str(tmp_path / "pen.toml"), *small, "data.batch_seconds=12", "--run", run)
    text = invoke("transcribe", run, str(tmp_path / "dev2.inkml")).stdout.strip()
    assert text == "on at"
    target = tmp_path / "word.png"
    invoke("plot", str(tmp_path / "dev2.inkml"), "--model", run, "-o", str(target))
    assert target.read_bytes().startswith(b"\x89PNG")


def invoke(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done


def test_points_get_the_labels_of_their_frames():
    pytest.importorskip("matplotlib")
    from ctcspeech.evaluate.plot_ink import emitted_labels

    scores = np.eye(3)[[0, 1, 2, 0]]
    emissions = Emissions(scores, ["<blank>", "a", "b"], blank=0, frame_shift_ms=20.0)
    assert emitted_labels(emissions, 8).tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert emitted_labels(emissions, 7).tolist() == [0, 0, 1, 1, 2, 2, 0]
    nothing = Emissions(scores[:0], ["<blank>", "a", "b"], blank=0, frame_shift_ms=20.0)
    assert emitted_labels(nothing, 2).tolist() == [0, 0]


# -- the recipe's hands


@pytest.fixture
def hands(monkeypatch):
    pytest.importorskip("HersheyFonts")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "recipes" / "pen"))
    monkeypatch.delitem(sys.modules, "hands", raising=False)
    import hands

    yield hands
    sys.modules.pop("hands", None)


def test_hands_write_alike_and_not_the_same(hands):
    ann, ben = hands.Hand.of(1), hands.Hand.of(2)
    first, again, other = (
        hands.write("one", ann, 1),
        hands.write("one", ann, 1),
        hands.write("one", ann, 2),
    )
    assert all((a == b).all() for a, b in zip(first.strokes, again.strokes, strict=True))
    assert len(first.strokes) == len(other.strokes)
    assert not np.allclose(first.strokes[0], other.strokes[0])
    assert len(ink_features(hands.write("one two", ben, 1))) > len(
        ink_features(hands.write("one", ben, 1))
    )
    assert hands.write("one", ann, 1).writer == ann.name


def test_held_out_hands_have_other_fonts(hands):
    seen = {hands.Hand.of(n).font for n in range(60)}
    held_out = {hands.Hand.of(n, True).font for n in range(10)}
    assert not seen & held_out and len(held_out) > 1
    for font in seen | held_out:
        for letter in "abcdefghijklmnopqrstuvwxyz":
            shapes, right = hands.glyph(font, letter)
            assert shapes and right > 0, f"{font} has no {letter}"
