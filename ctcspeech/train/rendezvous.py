"""How the processes of a training find each other, also when torchrun has started them again.

torchrun keeps one store for all the processes that it starts one after the other (where
TORCHELASTIC_USE_AGENT_STORE is True), and torch leaves the addresses of its connections in it under
the same names each time. Processes that were started again then may find the addresses of dead
ones, and fail or wait for them. So rank 0 opens a new store each time and tells its place through
torchrun's; the others take no place where nobody, or somebody else, answers.
"""

import os
import secrets
import socket
import time
from datetime import timedelta

import torch.distributed as distributed

from ctcspeech.errors import TrainingError

__all__ = ["MEETING_SECONDS", "Meeting"]

MEETING_SECONDS = 600.0  # how long processes wait for each other at the start
_PLACE = "ctcspeech/place"  # in torchrun's store: "PORT PASSWORD"
_BEGUN = "ctcspeech/begun"  # in torchrun's store, once a training has begun
_ATTEMPT = timedelta(seconds=5)


class Meeting:
    """`store`: one that all processes of this start share, and nobody else.

    `restarted`: whether a training that these are to go on with has begun under this torchrun.
    """

    def __init__(self, rank: int, world_size: int, seconds: float = MEETING_SECONDS) -> None:
        self.rank, self.world_size = rank, world_size
        self.deadline = time.monotonic() + seconds
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.agent: distributed.Store | None = None
        wait = timedelta(seconds=seconds)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            self.agent = distributed.TCPStore(host, port, is_master=False, timeout=wait)
            self.store = self._open(host) if not rank else self._find(host)
        else:  # rank 0 keeps the store, which ends with it
            self.store = distributed.TCPStore(
                host, port, world_size, is_master=not rank, timeout=wait, multi_tenant=True
            )
        self.restarted = self._restarted()

    def begun(self) -> None:
        """Notes that the training has begun: what torchrun starts from now on goes on with it."""
        if self.agent is not None and not self.rank:
            self.agent.set(_BEGUN, "1")

    def _restarted(self) -> bool:
        if self.agent is not None:
            return bool(self.agent.check([_BEGUN]))
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def _open(self, host: str) -> distributed.TCPStore:
        assert self.agent is not None
        # Port 0: the operating system chooses one.
        store = distributed.TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=self._left()
        )
        password = secrets.token_hex(16)
        store.set("password", password)
        self.agent.set(_PLACE, f"{store.port} {password}")
        return store

    def _find(self, host: str) -> distributed.TCPStore:
        assert self.agent is not None
        while time.monotonic() < self.deadline:
            port, password = self.agent.get(_PLACE).decode().split()
            store = _connected(host, int(port), password)
            if store is not None:
                store.set_timeout(self._left())
                return store
            time.sleep(0.1)  # rank 0 of a former start; this start's has yet to come
        raise TrainingError(
            f"process {self.rank} of {self.world_size} waited {MEETING_SECONDS:g} s in vain for "
            f"process 0 at {host}; give the command again with --resume"
        )

    def _left(self) -> timedelta:
        return timedelta(seconds=max(1.0, self.deadline - time.monotonic()))


def _connected(host: str, port: int, password: str) -> distributed.TCPStore | None:
    """The store there, None where there is none with that password."""
    try:
        socket.create_connection((host, port), timeout=_ATTEMPT.total_seconds()).close()
        store = distributed.TCPStore(host, port, is_master=False, timeout=_ATTEMPT)
        return store if store.get("password") == password.encode() else None
    except (OSError, RuntimeError):  # torch's errors of stores are RuntimeErrors
        return None
