"""The recipe `translate`: what of a catalogue becomes a pair; all of it on a made-up one."""

import importlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ctcspeech import read_manifest
from ctcspeech.cli import app
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import train

RECIPE = Path(__file__).parents[1] / "recipes" / "translate"
MODULES = ("bleu", "draw", "prepare")


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def write_mo(path: Path, pairs: dict[str, str]) -> None:
    """A catalogue as the GNU gettext manual describes it ("The Format of GNU MO Files")."""
    header = "Content-Type: text/plain; charset=UTF-8\n"
    items = sorted({"": header, **pairs}.items())
    keys, texts = ([x.encode() for x in column] for column in zip(*items, strict=True))
    place = 28 + 16 * len(items)
    tables, data = [], b""
    for column in (keys, texts):
        for text in column:
            tables.append(struct.pack("<2I", len(text), place + len(data)))
            data += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(items), 28, 28 + 8 * len(items), 0, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"".join(tables) + data)


def test_what_becomes_a_pair(recipe, tmp_path):
    prepare = recipe("prepare")
    write_mo(
        tmp_path / "xx" / "LC_MESSAGES" / "a.mo",
        {
            "_Open file...": "Datei _oeffnen...",
            "menu\x04Close": "Schliessen",
            "%d files": "%d Dateien",
            "<b>Bold</b>": "<b>Fett</b>",
            "one apple\0many apples": "ein Apfel\0viele Aepfel",
            "A text that is far longer than the limit": "kurz",
        },
    )
    (tmp_path / "xx.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain"\n\n'
        '#: a.c\nmsgid "Save "\n"all"\nmsgstr "Alles "\n"sichern"\n\n'
        '#, fuzzy\nmsgid "Maybe"\nmsgstr "Vielleicht"\n\n'
        'msgid "Say \\"yes\\" now"\nmsgstr "Sag jetzt \\"ja\\""\n\n'
        'msgid "Nothing yet"\nmsgstr ""\n',
        encoding="utf-8",
    )
    pairs = [(prepare.cleaned(a), prepare.cleaned(b)) for a, b in prepare.messages(tmp_path, "xx")]
    kept = {a: b for a, b in pairs if prepare.fits(a, 24) and prepare.fits(b, 24)}
    assert kept == {
        "Open file": "Datei oeffnen",
        "Close": "Schliessen",
        "one apple": "ein Apfel",
        "Save all": "Alles sichern",
        'Say "yes" now': 'Sag jetzt "ja"',
    }


def test_no_text_of_the_test_is_in_training(recipe):
    prepare = recipe("prepare")
    pairs = [(f"{verb} {noun}{end}", "x") for verb in ("Open", "open", "OPEN", "shut")
             for noun in map(str, range(300)) for end in ("", "!")]  # fmt: skip
    splits = prepare.divide(pairs)
    said = {
        name: {"".join(c for c in s.casefold() if c.isalnum()) for s, _ in items}
        for name, items in splits.items()
    }
    assert sum(map(len, splits.values())) == len(pairs)
    assert all(said.values())
    assert not said["train"] & said["test"] and not said["train"] & said["dev"]
    assert not said["dev"] & said["test"]


def test_the_whole_way(recipe, tmp_path, monkeypatch, capsys):
    """Made-up messages whose "translation" is longer than they are, which CTC could not say."""
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcde"), 3)) for _ in range(400)]
    pairs = {word: " ".join([word, word[::-1]] * 3) for word in words}  # BLEU takes four words
    write_mo(tmp_path / "locale" / "xx" / "LC_MESSAGES" / "a.mo", pairs)
    data = tmp_path / "data"
    prepare = recipe("prepare")
    arguments = ["prepare.py", str(data), "--language", "xx", "--data", str(tmp_path / "locale")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--limit", "60"])
    prepare.main()
    utterances = read_manifest(data / "train.jsonl")
    symbols = json.loads((data / "symbols.json").read_text())
    for utterance in utterances:
        numbers = np.load(utterance.features_filepath)
        assert "".join(symbols[int(n)] for n in numbers[:, 0]) == utterance.extra["source"]
        assert pairs[utterance.extra["source"]] == utterance.text

    torch.set_num_threads(1)
    config = load_config(
        RECIPE / "translate.toml",
        [
            f"data.train={data / 'train.jsonl'}", f"data.validation={data / 'dev.jsonl'}",
            "model.hidden=16", "model.channels=[16]", "model.attention.hidden=32",
            "train.epochs=2", "train.tensorboard=false",
        ],
    )  # fmt: skip
    lines: list[str] = []
    train(config, tmp_path / "run", report=lines.append)
    assert not any("left out" in line for line in lines)
    assert any(f"training on {len(utterances)} utterances" in line for line in lines)
    done = CliRunner().invoke(
        app,
        ["evaluate", str(tmp_path / "run"), str(data / "test.jsonl"), "--decoder", "attention",
         "--beam-size", "2", "-o", str(tmp_path / "each.jsonl")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output

    bleu = recipe("bleu")
    # What it says of texts whose score is known: the references themselves.
    perfect = [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]
    for line in perfect:
        line["hypothesis"] = line["reference"]
    (tmp_path / "perfect.jsonl").write_text("\n".join(map(json.dumps, perfect)))
    files = [str(tmp_path / "each.jsonl"), str(tmp_path / "perfect.jsonl")]
    monkeypatch.setattr(sys, "argv", ["bleu.py", str(data / "test.jsonl"), *files])
    capsys.readouterr()
    bleu.main()
    copy, own, best, _ = capsys.readouterr().out.splitlines()
    count = len(perfect)
    assert copy.startswith("copy of the source: BLEU ") and f"0 of {count} exactly" in copy
    assert "BLEU 100.0, chrF 100.0" in best and f"{count} of {count} exactly" in best
    assert "BLEU" in own

    output = tmp_path / "attention.png"
    drawing = ["draw.py", str(tmp_path / "run"), str(data), "--text", "abc", "-o", str(output)]
    monkeypatch.setattr(sys, "argv", drawing)
    recipe("draw").main()
    assert output.stat().st_size > 5000


def test_too_few_messages_are_said(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "d"), "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="0 messages of language de"):
        recipe("prepare").main()
