"""`ctcspeech lm`."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
from test_language_model import SMALL
from typer.testing import CliRunner

from ctcspeech import LanguageModel
from ctcspeech.cli import app
from ctcspeech.cli.lm import read_lines
from ctcspeech.errors import LanguageModelError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.arpa").write_text(SMALL)
    (tmp_path / "text.txt").write_text("a b\n\nc zzz\n")

    def run(*arguments, code=0, **options):
        result = CliRunner().invoke(app, ["lm", *arguments], **options)
        assert result.exit_code == code, result.output
        return result

    return run


def test_query(run):
    model = LanguageModel.load("small.arpa")
    lines = run("query", "small.arpa", "text.txt").stdout
    rows = {line[:18].strip(): line[18:].split() for line in lines.splitlines()}
    assert rows["sentences"] == ["2"] and rows["tokens"][0] == "6"
    assert rows["out of vocabulary"][0] == "1"
    total = model.score("a b") + model.score("c zzz")
    assert float(rows["log10 P"][0]) == pytest.approx(total, abs=1e-4)
    assert float(rows["perplexity"][0]) == pytest.approx(10 ** (-total / 6), abs=1e-3)
    known = total - model.full_scores("c zzz")[1].log10
    assert float(rows["without OOV"][0]) == pytest.approx(10 ** (-known / 5), abs=1e-3)


def test_query_details(run):
    words = run("query", "small.arpa", "-", "--words", input="a b\nzzz\n").stdout.splitlines()
    assert words[0].split("\t") == ["a", "-0.300000", "2"] and words[3] == ""
    assert words[4].split("\t")[0] == "zzz" and words[4].endswith("OOV")
    sentences = run("query", "small.arpa", "text.txt", "--sentences").stdout.splitlines()
    assert sentences[0] == "-0.550000\t3\t0\ta b"


@pytest.mark.parametrize("name", ["text.gz", "text.bz2", "text.xz", "no-ending"])
def test_compressed_texts(run, name):
    packers = {"text.gz": gzip, "text.bz2": bz2, "text.xz": lzma, "no-ending": bz2}
    packed = packers[name].compress(Path("text.txt").read_bytes())
    Path(name).write_bytes(packed)
    plain = run("query", "small.arpa", "text.txt").stdout
    assert run("query", "small.arpa", name).stdout == plain
    assert run("query", "small.arpa", "-", input=packed).stdout == plain
    Path("cut").write_bytes(packed[:-9])
    with pytest.raises(LanguageModelError, match="^cut: "):
        list(read_lines([Path("cut")]))


def test_convert_and_info(run):
    run("convert", "small.arpa", "t.bin", "--kind", "trie", "--probability-bits", "8")
    out = run("info", "t.bin", "--verify").stdout
    assert "trie" in out and "2-grams            4" in out and "right" in out
    run("convert", "t.bin", "back.arpa.gz")
    assert LanguageModel.load("back.arpa.gz").counts == [6, 4, 2]
    run("convert", "small.arpa", "x", "--kind", "nonsense", code=2)
    result = run("convert", "text.txt", "x", code=1)
    assert isinstance(result.exception, LanguageModelError)


def test_mix(run):
    out = run("mix", "small.arpa", "small.arpa", "m.bin", "--text", "text.txt").stdout
    assert "weight of small.arpa: 0.5000" in out
    assert LanguageModel.load("m.bin").counts == [6, 4, 2]
    run("mix", "small.arpa", "small.arpa", "m.bin", code=2)
