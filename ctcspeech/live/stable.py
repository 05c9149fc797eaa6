"""The words of an utterance that nothing will change.

A beam decoder's hypotheses share their first words; no later frame can change those. Users see them
in black, the rest in grey, and protocols whose deltas cannot be taken back send only them.
"""

from ctcspeech.errors import DecoderError

__all__ = ["StablePrefix"]


class StablePrefix:
    """Follows one utterance: what is stable only grows, and the final text begins with it."""

    def __init__(self) -> None:
        self.text = ""

    def update(self, text: str) -> str:
        """The stable words are these now; returns what was added, the space before it included.

        Raises DecoderError if they do not begin with what was stable before: a fault of the decoder
        that nobody downstream could mend.
        """
        if not text.startswith(self.text):
            raise DecoderError(f"the stable text {self.text!r} became {text!r}")
        added = text[len(self.text) :]
        self.text = text
        return added
