"""Emissions of many recordings: batches of like length, computed by several threads.

    workers = Workers(emitter, threads=2)
    log_probs = workers.emissions([samples, other])       # (T', C) each

What an emitter is, `ctcspeech.emissions.Emitter` says.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np

from ctcspeech.emissions import Emitter, EmitterStream

__all__ = ["Batch", "Emitter", "EmitterStream", "Workers", "gather"]

Batch = tuple[list[int], Future[list[np.ndarray]]]
"""The indices of some inputs, and what will be their emissions."""


class Workers:
    """Threads that compute an emitter's emissions."""

    def __init__(
        self, emitter: Emitter, threads: int | None = None, batch_seconds: float = 120.0
    ) -> None:
        """
        threads: batches computed at the same time; by default the emitter's `default_threads`.
        batch_seconds: audio in a batch, padding included. It bounds the memory, with `threads`.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if not batch_seconds > 0:
            raise ValueError(f"batch_seconds must be above 0, got {batch_seconds}")
        self.emitter = emitter
        self.threads = threads or emitter.default_threads
        self.batch_seconds = batch_seconds
        self._pool: ThreadPoolExecutor | None = None

    def emissions(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities, float32 (T', C), of each utterance.

        inputs: samples (S,) at the emitter's rate, or precomputed features (T, F), of any lengths.
        """
        batches = self.submit([np.asarray(item) for item in inputs])
        return gather(batches, len(inputs))

    def submit(self, inputs: list[np.ndarray]) -> list[Batch]:
        """Batches of like length, being computed from now on."""
        if not inputs:
            return []
        lengths = [len(item) for item in inputs]
        order = sorted(range(len(inputs)), key=lambda i: (-lengths[i], i))
        # With little to do, every thread gets a share of it.
        limit = min(self.batch_seconds * self.emitter.input_rate, sum(lengths) / self.threads)
        batches: list[list[int]] = []
        for i in order:
            room = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= limit
            if room and not self.emitter.padding_changes_output:
                batches[-1].append(i)
            else:
                batches.append([i])
        pool = self.pool()
        return [
            (batch, pool.submit(self.emitter.compute, [inputs[i] for i in batch]))
            for batch in batches
        ]

    def pool(self) -> ThreadPoolExecutor:
        """The threads, each of which uses one processor."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="ctcspeech")
            self.emitter.prepare_threads(self._in_each)
        return self._pool

    def _in_each(self, function: Callable[[], None]) -> None:
        assert self._pool is not None
        barrier = Barrier(self.threads)  # so that each thread of the pool gets one call

        def call() -> None:
            barrier.wait()
            function()

        for done in [self._pool.submit(call) for _ in range(self.threads)]:
            done.result()


def gather(batches: list[Batch], count: int) -> list[np.ndarray]:
    """Waits for all batches; the emissions of the `count` inputs, in their order."""
    results: list[Any] = [None] * count
    for indices, future in batches:
        for i, item in zip(indices, future.result(), strict=True):
            results[i] = item
    return results
