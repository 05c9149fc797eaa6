"""What the site's build writes: the reference of the command line, from the verbs' own help."""

from pathlib import Path

import click
import typer.main
from mkdocs.structure.files import File, Files

HEAD = """# Command line

`ctcspeech VERB --help` prints the same. Exit codes: 0 done, 1 failed wholly or for some items (each
is reported, the rest is done), 2 wrong usage, 130 interrupted.
"""


def on_files(files: Files, config) -> Files:  # noqa: ANN001 (mkdocs' configuration)
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    results = Path(config.config_file_path).parent / "benchmarks" / "results"
    for picture in sorted(results.glob("*.svg")):  # beside the page that shows the tables
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def command_line() -> str:
    """The page: a section a verb, in the order of `ctcspeech --help`."""
    from ctcspeech.cli import app

    parts = [HEAD]
    root = typer.main.get_command(app)
    context = click.Context(root, info_name="ctcspeech")
    for name in root.list_commands(context):
        parts += _sections(root.get_command(context, name), f"ctcspeech {name}", context, 2)
    return "\n".join(parts)


def _sections(command, path: str, parent, level: int) -> list[str]:  # noqa: ANN001 (typer's own click)
    context = type(parent)(command, info_name=path, parent=None)
    parts = [f"{'#' * level} {path}\n", "```text\n" + command.get_help(context).strip() + "\n```\n"]
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            parts += _sections(inner, f"{path} {name}", context, level + 1)
    return parts
