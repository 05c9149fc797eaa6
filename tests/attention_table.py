"""What tests of searches with an attention decoder share: random answers, sums over all paths."""

import itertools

import numpy as np


def distributions(rows, columns, seed, sharpness=1.0):
    random = np.random.default_rng(seed)
    return np.log(random.dirichlet(np.full(columns, sharpness), rows))


def ctc_probabilities(log_probs, blank):
    """P of every text, by its paths, all of them."""
    found = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tuple(label for label, _ in itertools.groupby(path) if label != blank)
        power = float(np.exp(sum(row[label] for row, label in zip(log_probs, path, strict=True))))
        found[text] = found.get(text, 0.0) + power
    return found


class Table:
    """An attention decoder whose answers are drawn anew for every prefix: nothing of them can be
    guessed from others. The state is the prefixes themselves."""

    def __init__(self, classes, frames, seed=0):
        self.end, self.frames, self.seed = classes, frames, seed

    def attend(self, states):
        assert states.shape == (self.frames, 2)
        return self

    def row(self, text):
        key = [self.seed, *(label + 1 for label in text)]
        return distributions(1, self.end + 1, key)[0]

    def weights(self, text):
        return np.exp(distributions(1, self.frames, [9, *(label + 1 for label in text)], 0.3))[0]

    def start(self):
        return [None]

    def step(self, labels, state):
        texts = [
            () if text is None else (*text, int(label))
            for text, label in zip(state, labels, strict=True)
        ]
        assert state != [None] or labels.tolist() == [self.end]
        return (
            np.array([self.row(text) for text in texts]),
            np.array([self.weights(text) for text in texts]),
            texts,
        )

    def select(self, state, rows):
        return [state[i] for i in rows]

    def read(self, texts):
        values = np.zeros((len(texts), 1 + max(map(len, texts))))
        for i, text in enumerate(texts):
            for k, label in enumerate([*text, self.end]):
                values[i, k] = self.row(tuple(text[:k]))[label]
        return values, np.zeros((*values.shape, self.frames))

    def score(self, text):
        return float(self.read([list(text)])[0].sum())

    def covered(self, text):
        given = [self.weights(text[:k]) for k in range(len(text))]
        return int((np.sum(given, axis=0) > 0.5).sum()) if given else 0
