"""How far apart frames of emissions may be, by how fast the labels of the texts come.

CTC needs a frame for each label and one more between equal ones; near that limit labels are
squeezed out, and a search has nothing left to choose from. On one reader's recordings (a letter
for 63 ms in the median) frames of 20 ms in place of 40 ms took the error rate with a language model
from 41 to 32 %; where a letter has 120 ms, 40 ms are enough.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

__all__ = ["FRAMES_A_LABEL", "propose_frame_shift"]

FRAMES_A_LABEL = 2.5  # in the median utterance
FASTER = 1.15  # what augmentation of the speed customarily reaches
SHIFTS_MS = (10, 20, 30, 40)


def propose_frame_shift(
    utterances: Iterable[tuple[Sequence[object], float]], shifts_ms: Sequence[float] = SHIFTS_MS
) -> tuple[float, float] | None:
    """The longest of `shifts_ms` that serves these utterances, (labels, seconds) each.

    The median utterance must have 2.5 frames for a label (and for each repeat), and 99 of 100 a
    frame also when said 1.15 times as fast. Returns (shift in ms, ms for a label in the median);
    the shortest shift where none serves, None without any label.
    """
    paces = sorted(
        1000 * seconds / (len(labels) + sum(a == b for a, b in pairwise(labels)))
        for labels, seconds in utterances
        if len(labels)
    )
    if not paces:
        return None
    median, fast = paces[len(paces) // 2], paces[len(paces) // 100]
    longest = min(median / FRAMES_A_LABEL, fast / FASTER)
    serving = [shift for shift in shifts_ms if shift <= longest]
    return (max(serving) if serving else min(shifts_ms)), median
