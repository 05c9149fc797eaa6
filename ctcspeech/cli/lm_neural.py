"""`ctcspeech lm train` and `lm sample`: neural language models."""

from pathlib import Path

import typer

from ctcspeech.progress import Progress

__all__ = ["sample", "train"]


def train(
    texts: list[Path] = typer.Argument(
        ...,
        exists=True,
        dir_okay=False,
        help="Text files (plain, gz, bz2, xz): UTF-8, a sentence a line. One given twice counts "
        "twice.",
    ),
    output: Path = typer.Option(..., "--output", "-o", help="The model (.safetensors)."),
    hidden: int = typer.Option(256, help="Width of the LSTM layers."),
    layers: int = typer.Option(1, help="LSTM layers."),
    embedding: int = typer.Option(64, help="Width of the embedding of labels."),
    epochs: float = typer.Option(3.0, help="Times that the text is read."),
    batch: int = typer.Option(64, help="Streams of text read at once."),
    window: int = typer.Option(100, help="Labels a step reads of each stream."),
    learning_rate: float = typer.Option(3e-3, help="Of Adam, falling along a cosine."),
    dropout: float = typer.Option(0.1, help="Share of values dropped between layers."),
    seed: int = typer.Option(0, help="Of the weights, the order of the text, and dropout."),
    alphabet: Path | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        help="Predict this alphabet's labels (characters or pieces); else the text's characters.",
    ),
    init: Path | None = typer.Option(
        None, exists=True, dir_okay=False, help="Start from this model, for instance a general one."
    ),
    resume: bool = typer.Option(False, help="Go on with a run that was stopped."),
) -> None:
    """Train a neural language model: an LSTM over characters or pieces.

    \b
        ctcspeech lm train general.txt.gz domain.txt -o lm.safetensors --epochs 2
        ctcspeech lm train domain.txt -o domain.safetensors --init lm.safetensors
        ctcspeech lm query lm.safetensors dev.txt
        ctcspeech lm sample lm.safetensors --temperature 0.7

    Needs torch. One line in a hundred is held out; the weights that predict those best are kept.
    A run that was stopped goes on exactly with --resume and the same options.
    """
    from ctcspeech.errors import LanguageModelError
    from ctcspeech.text.alphabet import Alphabet

    try:
        from ctcspeech.lm.neural_train import NeuralOptions, train_neural_lm
    except ImportError as error:
        raise LanguageModelError(f"training needs torch: {error}") from error
    options = NeuralOptions(
        hidden=hidden, layers=layers, embedding=embedding, epochs=epochs, batch=batch,
        window=window, learning_rate=learning_rate, dropout=dropout, seed=seed,
    )  # fmt: skip
    display = Progress("training", unit="step")

    def progress(step: int, steps: int, seconds: float) -> None:
        display.total = steps
        display.advance(step - display.done)

    try:
        report = train_neural_lm(
            texts,
            output,
            options,
            alphabet=Alphabet.load(alphabet) if alphabet else None,
            init=init,
            resume=resume,
            progress=progress,
            report=lambda line: print(line, flush=True),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    finally:
        display.close()
    print(
        f"{output}: {report.bits_per_label:.4f} bits a label held out, {report.steps} steps over "
        f"{report.labels} labels"
    )


def sample(
    model: Path = typer.Argument(help="A neural language model.", exists=True, dir_okay=False),
    temperature: float = typer.Option(
        1.0, min=0.0, help="Below 1: likelier sentences; 0: the likeliest label each time."
    ),
    count: int = typer.Option(5, min=1, help="Sentences to write."),
    prompt: str = typer.Option("", help="How each sentence begins."),
    seed: int = typer.Option(0, min=0, help="The same seed, the same sentences."),
    longest: int = typer.Option(1000, min=1, help="Labels after which a sentence is cut off."),
) -> None:
    """Write sentences that a neural language model makes up.

    \b
    ctcspeech lm sample lm.safetensors --temperature 0.7 --prompt "the "
    """
    from ctcspeech.lm.neural import NeuralLanguageModel

    lm = NeuralLanguageModel.load(model)
    for i in range(count):
        print(lm.sample(prompt, temperature=temperature, seed=seed + i, longest=longest))
