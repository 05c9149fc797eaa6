"""An attention decoder: the encoder's states (N, T, H) to the labels of a text, one after another.

    decoder = AttentionDecoder(AttentionConfig(), states_size=384, num_labels=29)
    logits, weights = decoder(states, lengths, targets)        # teacher forcing
    losses = attention_loss(logits, targets, target_lengths)   # (N,) nats

The recurrence of one step i is that of Luong et al. 2015 (arXiv 1508.04025, figure 2 and section
3.3), whichever the score:

    s_i = cell([embedding(y_{i-1}); a_{i-1}], s_{i-1})       a_{i-1} with input feeding alone
    w_i = softmax over the frames j of score(s_i, h_j, w_{i-1})
    c_i = sum over j of w_ij h_j
    a_i = tanh(W_a [c_i; s_i])                                their equation 5
    P(y_i | y_1..i-1, x) = softmax(W_o a_i)                   equation 6

The classes are the model's C labels, with their numbers, and one more, C, which begins a text as
input and ends it as output. The blank's number is never a target.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

__all__ = [
    "AttentionConfig",
    "AttentionDecoder",
    "Attender",
    "DecoderState",
    "attention_loss",
]

LARGEST = 16_384  # units of a layer


class AttentionConfig(BaseModel):
    """The section `[model.attention]`: an attention decoder beside the CTC output."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    score: Literal["additive", "dot", "general", "location"] = "location"
    cell: Literal["lstm", "gru"] = "lstm"
    layers: int = Field(1, ge=1, le=16)
    hidden: int = Field(256, ge=1, le=LARGEST)
    embedding: int = Field(128, ge=1, le=LARGEST)  # of the labels
    size: int = Field(128, ge=1, le=LARGEST)  # of additive and location-aware scores
    channels: int = Field(10, ge=1, le=LARGEST)  # of location's convolution (published: 10)
    width: int = Field(31, ge=1, le=10_001)  # odd; frames that it sees
    input_feeding: bool = True
    dropout: float = Field(0.1, ge=0, lt=1)  # of the embeddings and of a_i

    @field_validator("width")
    @classmethod
    def _odd(cls, width: int) -> int:
        if width % 2 == 0:
            raise ValueError("width must be odd")
        return width


# -- scores -----------------------------------------------------------------------------------


class Score(nn.Module):
    """How well each frame's state fits the decoder's: e (N, T) before the softmax."""

    def keys(self, states: Tensor) -> Tensor:
        """What of states (N, T, H) does not depend on the decoder: (N, T, K)."""
        return states

    def forward(self, query: Tensor, keys: Tensor, before: Tensor) -> Tensor:
        """query (N, D), keys (N, T, K), before (N, T) the weights of the step before: (N, T)."""
        raise NotImplementedError


class DotScore(Score):
    """s . h (Luong et al. 2015, equation 8, "dot"). Needs D = H."""

    def forward(self, query: Tensor, keys: Tensor, before: Tensor) -> Tensor:
        return torch.bmm(keys, query[:, :, None])[:, :, 0]


class GeneralScore(DotScore):
    """s . W h (Luong et al. 2015, equation 8, "general")."""

    def __init__(self, states_size: int, hidden: int) -> None:
        super().__init__()
        self.of_states = nn.Linear(states_size, hidden, bias=False)

    def keys(self, states: Tensor) -> Tensor:
        return self.of_states(states)


class AdditiveScore(Score):
    """v . tanh(W s + V h + b) (Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2)."""

    def __init__(self, states_size: int, hidden: int, size: int) -> None:
        super().__init__()
        self.of_states = nn.Linear(states_size, size)  # V and b
        self.of_query = nn.Linear(hidden, size, bias=False)  # W
        self.vector = nn.Linear(size, 1, bias=False)  # v

    def keys(self, states: Tensor) -> Tensor:
        return self.of_states(states)

    def forward(self, query: Tensor, keys: Tensor, before: Tensor) -> Tensor:
        return self.vector(torch.tanh(self.of_query(query)[:, None] + keys))[:, :, 0]


class LocationScore(AdditiveScore):
    """v . tanh(W s + V h_j + U f_j + b), f = F * w_{i-1} (Chorowski et al. 2015, arXiv 1506.07503,
    equations 8 and 9): a convolution of the weights of the step before."""

    def __init__(self, states_size: int, hidden: int, size: int, channels: int, width: int) -> None:
        super().__init__(states_size, hidden, size)
        self.convolution = nn.Conv1d(1, channels, width, padding=width // 2, bias=False)  # F
        self.of_place = nn.Linear(channels, size, bias=False)  # U

    def forward(self, query: Tensor, keys: Tensor, before: Tensor) -> Tensor:
        place = self.convolution(before[:, None]).transpose(1, 2)  # (N, T, channels)
        return super().forward(query, keys + self.of_place(place), before)


def build_score(config: AttentionConfig, states_size: int) -> Score:
    if config.score == "dot":
        return DotScore()
    if config.score == "general":
        return GeneralScore(states_size, config.hidden)
    if config.score == "additive":
        return AdditiveScore(states_size, config.hidden, config.size)
    return LocationScore(states_size, config.hidden, config.size, config.channels, config.width)


# -- the decoder ------------------------------------------------------------------------------


class DecoderState(NamedTuple):
    """What a step leaves for the next, a row for each text."""

    cells: tuple[Tensor, ...]  # (N, D) each: h of each layer, and c where the cell is an LSTM
    attended: Tensor  # (N, D): a_i
    weights: Tensor  # (N, T): w_i

    def select(self, rows: Tensor) -> "DecoderState":
        """The state of some texts, any of them several times."""
        cells = tuple(cell[rows] for cell in self.cells)
        return DecoderState(cells, self.attended[rows], self.weights[rows])


class Memory(NamedTuple):
    """The encoder's answer, as every step needs it."""

    states: Tensor  # (N, T, H)
    keys: Tensor  # (N, T, K)
    mask: Tensor  # (N, T) bool: whether a frame is a true one


class AttentionDecoder(nn.Module):
    """See the head of the module. `end`: the class C, begin and end of a text."""

    def __init__(self, config: AttentionConfig, states_size: int, num_labels: int) -> None:
        super().__init__()
        if config.score == "dot" and config.hidden != states_size:
            raise ValueError(
                f"model.attention.hidden must be {states_size}, as wide as the encoder, for the "
                f'score "dot", got {config.hidden}; or take "general"'
            )
        self.config, self.end = config, num_labels
        self.embedding = nn.Embedding(num_labels + 1, config.embedding)
        fed = config.hidden if config.input_feeding else 0
        cell = nn.LSTMCell if config.cell == "lstm" else nn.GRUCell
        sizes = [config.embedding + fed] + [config.hidden] * (config.layers - 1)
        self.cells = nn.ModuleList(cell(size, config.hidden) for size in sizes)
        self.score = build_score(config, states_size)
        self.combine = nn.Linear(states_size + config.hidden, config.hidden, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden, num_labels + 1)

    def forward(
        self, states: Tensor, lengths: Tensor, targets: Tensor, sampling: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the logits (N, L + 1, C + 1) of every label of the targets (N, L), given
        those before it, and of the end; and the weights (N, L + 1, T).

        sampling: probability, for each label, that its successor is given a label drawn from the
        decoder's own distribution in its place (scheduled sampling; Bengio et al. 2015, arXiv
        1506.03099). What stands past a target's length is the caller's to leave out.
        """
        begin = targets.new_full((len(targets), 1), self.end)
        inputs = torch.cat([begin, targets], dim=1)  # (N, L + 1)
        memory = self.memory(states, lengths)
        state = self.start(memory)
        attended, weights = [], []
        for i in range(inputs.shape[1]):
            given = inputs[:, i]
            if i and sampling:
                drawn = torch.multinomial(self.logits(state.attended).detach().softmax(-1), 1)[:, 0]
                replaced = torch.rand(len(given), device=given.device) < sampling
                given = torch.where(replaced, drawn, given)
            state = self.step(given, state, memory)
            attended.append(state.attended)
            weights.append(state.weights)
        return self.logits(torch.stack(attended, dim=1)), torch.stack(weights, dim=1)

    def memory(self, states: Tensor, lengths: Tensor) -> Memory:
        """states (N, T, H), of which lengths (N,) are true."""
        frames = torch.arange(states.shape[1], device=states.device)
        mask = frames < lengths.to(states.device)[:, None]
        return Memory(states, self.score.keys(states), mask)

    def start(self, memory: Memory) -> DecoderState:
        """Before the first label: zeros, and all weight on the first frame."""
        count, frames = memory.mask.shape
        zero = memory.states.new_zeros(count, self.config.hidden)
        kinds = 2 if self.config.cell == "lstm" else 1
        weights = memory.states.new_zeros(count, frames)
        weights[:, 0] = 1.0
        return DecoderState((zero,) * (kinds * len(self.cells)), zero, weights)

    def step(self, labels: Tensor, state: DecoderState, memory: Memory) -> DecoderState:
        """After the labels (N,), `end` before the first."""
        hidden = self.dropout(self.embedding(labels))
        if self.config.input_feeding:
            hidden = torch.cat([hidden, state.attended], dim=1)
        cells: list[Tensor] = []
        for k, cell in enumerate(self.cells):
            if k:
                hidden = self.dropout(hidden)
            if self.config.cell == "lstm":
                hidden, inner = cell(hidden, (state.cells[2 * k], state.cells[2 * k + 1]))
                cells += [hidden, inner]
            else:
                hidden = cell(hidden, state.cells[k])
                cells.append(hidden)
        scores = self.score(hidden, memory.keys, state.weights)  # (N, T)
        weights = scores.masked_fill(~memory.mask, -torch.inf).softmax(dim=-1)
        context = torch.bmm(weights[:, None], memory.states)[:, 0]  # (N, H)
        attended = torch.tanh(self.combine(torch.cat([context, hidden], dim=1)))
        return DecoderState(tuple(cells), attended, weights)

    def logits(self, attended: Tensor) -> Tensor:
        """a (..., D) to (..., C + 1)."""
        return self.output(self.dropout(attended))

    @torch.no_grad()
    def greedy(self, states: Tensor, lengths: Tensor, longest: int, blank: int) -> list[list[int]]:
        """The likeliest label after the likeliest, up to the end or `longest` labels."""
        memory = self.memory(states, lengths)
        state = self.start(memory)
        labels = torch.full((len(states),), self.end, device=states.device)
        going = torch.ones(len(states), dtype=torch.bool, device=states.device)
        rows: list[Tensor] = []
        for _ in range(longest):
            state = self.step(labels, state, memory)
            logits = self.logits(state.attended)
            logits[:, blank] = -torch.inf
            labels = logits.argmax(-1)
            going = going & (labels != self.end)
            if not going.any():
                break
            rows.append(labels.where(going, self.end))
        found = torch.stack(rows, dim=1).tolist() if rows else [[] for _ in states]
        return [[label for label in row if label != self.end] for row in found]

    def attend(self, states: np.ndarray) -> "Attender":
        """The decoder on one utterance's states (T, H), for searches that know only arrays."""
        return Attender(self, states)

    def replace_labels(self, num_labels: int, rows: Tensor, of: Tensor) -> None:
        """Another alphabet: `rows` of the new classes take the weights of the old ones `of`; the
        end keeps its own; the others are untrained."""
        to = torch.cat([rows, torch.tensor([num_labels])])
        of = torch.cat([of, torch.tensor([self.end])])
        embedding, output = self.embedding, self.output
        self.embedding = nn.Embedding(num_labels + 1, self.config.embedding).to(output.weight)
        self.output = nn.Linear(self.config.hidden, num_labels + 1).to(output.weight)
        with torch.no_grad():
            self.embedding.weight[to] = embedding.weight[of]
            self.output.weight[to] = output.weight[of]
            self.output.bias[to] = output.bias[of]
        self.end = num_labels


def attention_loss(
    logits: Tensor, targets: Tensor, target_lengths: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """-ln P(y | x) of each target and its end, in nats: (N,).

    logits (N, L + 1, C + 1) as the decoder gives them, targets (N, L), of which target_lengths (N,)
    are true. label_smoothing: share of the probability that is spread evenly over all classes
    (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    count, steps, classes = logits.shape
    end = classes - 1
    places = torch.arange(steps, device=logits.device)
    lengths = target_lengths.to(logits.device)[:, None]
    wanted = torch.cat([targets, targets.new_zeros(count, 1)], dim=1)
    wanted = wanted.masked_fill(places >= lengths, end)
    losses = cross_entropy(
        logits.flatten(0, 1).float() if logits.dtype != torch.float64 else logits.flatten(0, 1),
        wanted.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view(count, steps).masked_fill(places > lengths, 0.0).sum(dim=1)


class Attender:
    """The decoder on one utterance. Arrays in and out; `end` is its first input and its last label.

    Neither dropout nor gradients: the decoder must be in evaluation mode.
    """

    def __init__(self, decoder: AttentionDecoder, states: np.ndarray) -> None:
        self.decoder, self.end = decoder, decoder.end
        weight = decoder.output.weight
        tensor = torch.as_tensor(np.ascontiguousarray(states)).to(weight)
        with torch.no_grad():
            self._memory = decoder.memory(tensor[None], torch.tensor([len(states)]))

    def start(self) -> DecoderState:
        """The state of one text, of which nothing is known."""
        return self.decoder.start(self._memory)

    @torch.no_grad()
    def step(
        self, labels: np.ndarray, state: DecoderState
    ) -> tuple[np.ndarray, np.ndarray, DecoderState]:
        """After the labels (B,): log-probabilities (B, C + 1) of the next, the weights (B, T) by
        which they were found, and the state."""
        given = torch.as_tensor(labels, device=state.attended.device)
        state = self.decoder.step(given, state, self._rows(len(labels)))
        log_probs = log_softmax(self.decoder.logits(state.attended).double(), dim=-1)
        return log_probs.cpu().numpy(), state.weights.cpu().numpy(), state

    def select(self, state: DecoderState, rows: np.ndarray) -> DecoderState:
        """The state of some of the texts."""
        return state.select(torch.as_tensor(rows, device=state.attended.device))

    @torch.no_grad()
    def read(self, texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Teacher forcing: ln P of each label of the texts and of their ends, (B, L + 1), 0 past
        them, and the weights (B, L + 1, T)."""
        longest = max(len(text) for text in texts)
        targets = torch.full((len(texts), longest), self.end)
        for i, text in enumerate(texts):
            targets[i, : len(text)] = torch.tensor(text, dtype=torch.int64)
        targets = targets.to(self._memory.mask.device)
        memory = self._rows(len(texts))
        logits, weights = self.decoder(memory.states, memory.mask.sum(-1), targets)
        wanted = torch.cat([targets, targets.new_full((len(texts), 1), self.end)], dim=1)
        log_probs = log_softmax(logits.double(), dim=-1).gather(2, wanted[:, :, None])[:, :, 0]
        lengths = np.array([len(text) for text in texts])
        past = np.arange(longest + 1) > lengths[:, None]
        return np.where(past, 0.0, log_probs.cpu().numpy()), weights.cpu().numpy()

    def _rows(self, count: int) -> Memory:
        return Memory(*(item.expand(count, *item.shape[1:]) for item in self._memory))
