"""Fixtures that several test modules use."""

import os
import signal
from pathlib import Path

import pytest

# A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of recordings named by CTCSPEECH_DATA; the test is skipped without it."""
    name = os.environ.get("CTCSPEECH_DATA")
    if not name:
        pytest.skip("CTCSPEECH_DATA names no folder of recordings")
    folder = Path(name)
    assert folder.is_dir(), f"CTCSPEECH_DATA is {folder}, which is no folder"
    return folder


@pytest.fixture
def one_thread():
    """Of torch: small models are the slower for more, and sums keep their order."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
