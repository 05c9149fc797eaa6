"""Where an attention decoder looks, label by label.

weights = attention_map(emitter, samples)                  # for what it recognises itself
weights = attention_map(emitter, samples, "place red")     # for a text that is given
plot_attention(weights).savefig("attention.png")
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ctcspeech.decode.attention import AttentionSearch, split_rows
from ctcspeech.emissions import Emitter
from ctcspeech.errors import DecoderError
from ctcspeech.evaluate.plot import AttentionMap, draw_attention

__all__ = ["attention_map", "plot_attention"]

END = "⏎"


def attention_map(
    emitter: Emitter, inputs: np.ndarray, text: str | None = None, start: float = 0.0
) -> AttentionMap:
    """The weights by which the decoder reads `text`, or, without one, what it finds most probable.

    inputs: samples (S,) or features (T, F), as `Emitter.compute` takes them; they begin `start`
    seconds from where times count. Raises CtcSpeechError where the model has no attention decoder,
    AlphabetError for a text that it cannot write, DecoderError where there is no frame.
    """
    (rows,) = emitter.with_states().compute([inputs])
    if not len(rows):
        raise DecoderError("the recording is too short for a frame: there is nothing to attend to")
    shift = emitter.frame_shift_ms
    _, states = split_rows(0, rows, len(emitter.alphabet))
    if text is not None:
        labels = emitter.alphabet.encode(text)
    else:
        ((found,),) = AttentionSearch(emitter.alphabet, shift, emitter.attention).decode([rows])
        labels = found.tokens
    _, weights = emitter.attention.attend(states).read([list(labels)])
    names = [emitter.alphabet.labels[label] for label in labels] + [END]
    return AttentionMap(weights[0], names, (start, start + len(rows) * shift / 1000))


def plot_attention(
    attention: AttentionMap, inputs: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """A panel alone: a row a label, a column a frame. inputs: names of the columns, where the
    frames are symbols; else the axis is in seconds.

    Raises ValueError where there are not as many names as frames.
    """
    rows, columns = attention.weights.shape
    if inputs is not None and len(inputs) != columns:
        raise ValueError(f"inputs must name the {columns} frames, got {len(inputs)} names")
    height = min(max(2.5, 0.18 * rows), 14.0)
    width = min(max(5.0, 0.18 * columns), 18.0)
    figure = Figure(figsize=(width, height + 0.9), dpi=110, layout="constrained")
    panel = figure.subplots()
    if inputs is not None:
        attention = AttentionMap(attention.weights, attention.names, (-0.5, columns - 0.5))
    draw_attention(panel, attention, height)
    if inputs is None:
        panel.set_xlabel("time (s)")
    else:
        shown = ["␣" if name == " " else name for name in inputs]
        panel.set_xticks(range(columns), [name.replace("$", r"\$") for name in shown], fontsize=8)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize="medium")
    return figure
