"""ctcspeech doctor: what is installed, what the machine offers, what is wrong."""

import json

import typer

__all__ = ["doctor"]


def doctor(
    as_json: bool = typer.Option(False, "--json", help="As JSON: {facts: {...}, problems: [...]}."),
) -> None:
    """Tell versions, instruction sets, devices and extras, and what is wrong: for a bug report.

    \b
        ctcspeech doctor

    Exit code 1 if something is wrong. What is merely not installed is listed and is no fault.
    """
    from ctcspeech import info

    if as_json:
        rows = info.facts()
        wrong = info.problems(rows)
        print(json.dumps({"facts": dict(rows), "problems": wrong}, indent=2))
    else:
        text = info.report()
        wrong = [line for line in text.splitlines() if line.startswith("WRONG: ")]
        print(text)
    if wrong:
        raise typer.Exit(1)
