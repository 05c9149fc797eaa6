"""docs/coming-over.md: every command, option, setting and call of ours in its tables is one, and
takes the arguments that stand there."""

import ast
import importlib
import inspect
import re
import shlex
import types
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main

import ctcspeech
from ctcspeech.cli import app
from ctcspeech.live.recognizer import LiveStream
from ctcspeech.train.config import RunConfig

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "coming-over.md").read_text(encoding="utf-8")
# What the page says its variables are.
VARIABLES = {
    "decoder": ctcspeech.BeamDecoder,
    "recognizer": ctcspeech.Recognizer,
    "live": ctcspeech.StreamingRecognizer,
    "stream": LiveStream,
    "lm": ctcspeech.LanguageModel,
}
# Spans that are neither commands nor calls: settings of the decoder, a section of a configuration.
OTHERS = {"token_min_logp", "[augment]", 'reduction="mean"'}


def spans():
    """(line, span) of the right column of each table but that of the peers' differences."""
    section = ""
    for number, line in enumerate(PAGE.splitlines(), 1):
        section = line if line.startswith("#") else section
        if line.startswith("|") and "Deliberate" not in section and not line.startswith("|---"):
            right = line.strip("| ").rsplit(" | ", 1)[1]
            yield from ((number, span) for span in re.findall(r"`([^`]+)`", right))


def verbs():
    """Each verb's command, by its words."""
    root = typer.main.get_command(app)

    def walk(command, words):
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            yield words, command

    return dict(walk(root, ()))


VERBS = verbs()
OPTIONS = {name for verb in VERBS.values() for p in verb.params for name in p.opts}


def check_command(text):
    """The verb is there; it has the options, each with its value, and so many arguments."""
    words = shlex.split(text)[1:]
    name = tuple(words[:2]) if tuple(words[:2]) in VERBS else tuple(words[:1])
    assert name in VERBS, f"there is no verb {' '.join(words[:2])}"
    options = {o: p for p in VERBS[name].params for o in p.opts if o.startswith("-")}
    wanted = [p for p in VERBS[name].params if not p.opts[0].startswith("-")]
    rest, given = words[len(name) :], []
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            assert word in options, f"{' '.join(name)} has no option {word}"
            if not getattr(options[word], "is_flag", False):
                assert rest, f"{word} needs a value"
                rest.pop(0)
        elif re.match(r"\w+\.\w+=", word):
            assert name == ("train",)
            check_setting(word)
        else:
            given.append(word)
    fewest = sum(p.required for p in wanted)
    most = np.inf if any(p.nargs == -1 for p in wanted) else len(wanted)
    assert fewest <= len(given) <= most, f"{' '.join(name)} takes other arguments"
    if name == ("data", "import"):
        from ctcspeech.data.corpora import KINDS

        assert given[0] in KINDS


def check_setting(text):
    """section.key=value: a key of the section, or of one of those that it may be."""
    section, key = text.partition("=")[0].split(".")
    kind = RunConfig.model_fields[section].annotation
    keys = {k for model in typing.get_args(kind) or (kind,) for k in model.model_fields}
    assert key in keys, f"[{section}] has no {key}"


class Instance(typing.NamedTuple):
    """Of a type, as far as it is known."""

    kind: typing.Any


def evaluate(node):
    """What an expression names: an object, or an Instance; its calls are checked, not made."""
    if isinstance(node, ast.Name):
        if node.id in VARIABLES:
            return Instance(VARIABLES[node.id])
        if node.id == "ctcspeech":
            return ctcspeech
        return getattr(ctcspeech, node.id) if node.id in ctcspeech.__all__ else Instance(None)
    if isinstance(node, ast.Attribute):
        return attribute(evaluate(node.value), node.attr)
    if isinstance(node, ast.Subscript):
        container = evaluate(node.value).kind
        return Instance(typing.get_args(container)[0])
    if isinstance(node, ast.Call):
        function = evaluate(node.func)
        assert callable(function), f"{ast.unparse(node.func)} cannot be called"
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            evaluate(argument)
        names = {keyword.arg: None for keyword in node.keywords}
        inspect.signature(function).bind(*[None] * len(node.args), **names)
        if inspect.isclass(function):
            return Instance(function)
        return Instance(hints(function).get("return"))
    assert isinstance(node, (ast.Constant, ast.Dict, ast.List, ast.UnaryOp)), ast.dump(node)
    return Instance(None)


def hints(of):
    return typing.get_type_hints(of, localns={"torch": torch})  # some import it for types alone


def attribute(owner, name):
    if isinstance(owner, types.ModuleType):
        if not hasattr(owner, name):
            return importlib.import_module(f"{owner.__name__}.{name}")
        return getattr(owner, name)
    kind = owner.kind if isinstance(owner, Instance) else owner
    assert inspect.isclass(kind), f"it cannot be told whose {name} is meant"
    found = inspect.getattr_static(kind, name, None)
    if isinstance(found, property):
        return Instance(hints(found.fget).get("return"))
    if inspect.isfunction(found):  # a method: it takes no self any more when it is called
        bound = types.MethodType(found, object()) if isinstance(owner, Instance) else found
        return bound
    if found is not None and callable(getattr(kind, name)):
        return getattr(kind, name)
    assert name in kind.__annotations__, f"{kind.__name__} has no {name}"
    return Instance(hints(kind)[name])


def check(span):
    if span.startswith("ctcspeech "):
        check_command(span)
    elif span.startswith("-"):
        assert span.split()[0] in OPTIONS
    elif re.match(r"\w+\.\w+=", span):
        check_setting(span)
    elif span not in OTHERS and not (ROOT / span).exists():
        named = evaluate(ast.parse(span, mode="eval").body)
        assert named != Instance(None), "this is no name of ctcspeech's"


def test_tables_are_read():
    found = list(spans())
    assert len(found) > 80 and OTHERS <= {span for _, span in found}


@pytest.mark.parametrize(("line", "span"), list(spans()))
def test_what_the_tables_name_is_there(line, span):
    check(span)


@pytest.mark.parametrize(
    "wrong",
    [
        "ctcspeech transcrbe RUN a.wav",
        "ctcspeech transcribe RUN a.wav --scorer s",
        "ctcspeech evaluate RUN",
        "ctcspeech evaluate RUN test.jsonl --lm",
        "ctcspeech train CONFIG.toml --run RUN model.n_hidden=2048",
        "--hot_words friend:1.5",
        "train.initialise_from=MODEL",
        "decoder.decode_beams(logits)",
        "decoder.decode([logits])[0][0].logit_score",
        "BeamDecoder(labels, lm, alpha=0.5)",
        "lm.score()",
        "Word.begin",
        "ctcspeech.compat.kenlm.Modell",
        "csrc/ctc/warp.h",
    ],
)
def test_what_is_not_there_is_found(wrong):
    with pytest.raises((AssertionError, ImportError, TypeError)):
        check(wrong)
