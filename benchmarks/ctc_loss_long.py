"""The CTC loss beyond ctc_loss.py: one very long utterance, and 16-bit scores.

    python benchmarks/ctc_loss_long.py

One thread, processor time. The long utterance is computed in a process of its own, whose peak
memory the operating system tells. In 16 bits, float32's loss of the same rounded scores is the
reference.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from machine import describe

import ctcspeech

LONG = (100_000, 1, 29, 20_000)  # T, N, C, L
SIXTEEN = [(150, 32, 29, 40), (400, 16, 1024, 40)]


def inputs(size, dtype=torch.float32):
    frames, items, classes, length = size
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(frames, items, classes, generator=generator).to(dtype)
    targets = torch.randint(1, classes, (items, length), generator=generator)
    lengths = torch.full((items,), frames), torch.full((items,), length)
    return scores.requires_grad_(), targets, lengths


def seconds(scores, targets, lengths):
    scores.grad = None
    start = time.process_time()
    loss = ctcspeech.ctc_loss(scores, targets, *lengths)
    loss.backward()
    return time.process_time() - start, loss


def long_utterance():
    taken, loss = seconds(*inputs(LONG))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": taken, "gigabytes": peak / 1e9, "loss": float(loss)}))


def main():
    torch.set_num_threads(1)
    if sys.argv[1:] == ["long"]:
        long_utterance()
        return
    print(describe())
    command = [sys.executable, __file__, "long"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{LONG}: {found['seconds']:.1f} s, peak {found['gigabytes']:.2f} GB")
    for size in SIXTEEN:
        kinds = (torch.float32, torch.bfloat16, torch.float16)
        cases = {dtype: inputs(size, dtype) for dtype in kinds}
        for scores, *rest in cases.values():
            reference, *_ = inputs(size)
            with torch.no_grad():
                reference.copy_(scores)
            _, loss = seconds(scores, *rest)
            _, expected = seconds(reference, *rest)
            torch.testing.assert_close(loss.float(), expected, rtol=1e-2, atol=0)
        times = {dtype: [] for dtype in kinds}
        for _ in range(30):
            for dtype, case in cases.items():
                times[dtype].append(seconds(*case)[0])
        medians = ", ".join(
            f"{str(dtype).removeprefix('torch.')} {1e3 * statistics.median(values):.2f} ms"
            for dtype, values in times.items()
        )
        print(f"{size}: {medians}")


if __name__ == "__main__":
    main()
