"""What the native core does where the system starts no more threads."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux's rules")
def test_without_more_threads_the_work_goes_on():
    """The address space is limited to so little more than is in use that no thread's stack fits."""
    code = """
import resource, threading
import numpy as np
from ctcspeech import _core, ctc
from ctcspeech.align.forced import forced_align
from ctcspeech.ctc import core

random = np.random.default_rng(0)
x = random.normal(size=(60, 8, 20)).astype(np.float32)
y = random.integers(1, 20, (8, 12))
weight, bias = (random.normal(size=s).astype(np.float32) for s in [(2, 24, 8), (2, 8)])
sizes = np.full(20, 8)

def all_of_it(threads):
    core.threads = ctc.arrays.threads = lambda: threads
    loss, gradient = ctc.loss_and_grad(x, y, 60, 12)
    gamma = ctc.posteriors(x, y, 60, 12)
    paths = forced_align(x.transpose(1, 0, 2), list(y), threads=threads)
    gates = np.linspace(-1, 1, 160 * 2 * 24, dtype=np.float32).reshape(160, 2, 24).copy()
    hidden = np.empty((160, 2, 8), np.float32)
    _core.gru_forward(gates, weight, bias, sizes, hidden, None, threads)
    return [loss, gradient, gamma, hidden, *(path.path for path in paths)]

expected = all_of_it(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
threading.stack_size(16 << 20)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    raise SystemExit("a thread was started all the same")
for one, other in zip(expected, all_of_it(4), strict=True):
    assert np.array_equal(one, other)
print("as on one thread")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "as on one thread\n"), done.stderr
