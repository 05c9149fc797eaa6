"""Workers as actors of Ray Data, on this machine or a cluster.

The parts are the rows of a dataset; a pool of actors, each with the model in its process, maps
them. Ray replaces actors and nodes that are lost and maps their rows again; a part that was done by
then is found done.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ctcspeech.bulk.missing import PartPlace, Todo
from ctcspeech.bulk.transcriber import Loader
from ctcspeech.bulk.worker import Job, Outcome, Worker
from ctcspeech.errors import BulkError, CtcSpeechError

__all__ = ["RayOptions", "run_ray"]

_OBJECT_STORE = 200 << 20  # bytes, of a local Ray: rows are a few hundred bytes each
_ROWS_A_BLOCK_AT_MOST = 64
_BLOCKS_A_WORKER = 16


@dataclass(frozen=True)
class RayOptions:
    """address: of an existing cluster, None to start Ray here. workers: actors at most. cpus, gpus,
    memory (bytes): what each asks for."""

    address: str | None = None
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None


def run_ray(
    job: Job, load: Loader, todo: Todo, advance: Callable[[float], None], options: RayOptions
) -> Iterator[tuple[PartPlace, Outcome]]:
    """Does all parts by actors. The storage must be one that every node reaches."""
    plan = f"plan/{job.driver}.jsonl"
    job.storage.upload(todo.file, plan)
    with contextlib.ExitStack() as stack:
        stack.callback(job.storage.delete, plan)
        _connect(options)
        stack.callback(_disconnect)
        rows = _dataset(job, load, todo, plan, options).iter_rows()
        with _errors():
            for row in rows:
                part = todo.parts[row["part"]]
                outcome = Outcome(**json.loads(row["outcome"]))
                advance(outcome.seconds)
                yield part, outcome


def _connect(options: RayOptions) -> None:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BulkError(
            f"--engine ray needs Ray Data ({error}); pip install 'ctcspeech[bulk]'"
        ) from error
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.address is None:
        arguments |= {
            "num_cpus": max(1, round(options.workers * options.cpus + 0.499)),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
        if options.gpus:
            arguments["num_gpus"] = max(1, round(options.workers * options.gpus + 0.499))
    else:
        arguments["address"] = options.address
    try:
        ray.init(**arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = options.address or "this machine"
        raise BulkError(f"Ray cannot be reached at {where}: {error}") from error
    _check_resources([node["Resources"] for node in ray.nodes() if node["Alive"]], options)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.actor_task_retry_on_errors = False  # an error of ours is final
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def _check_resources(nodes: list[dict[str, float]], options: RayOptions) -> None:
    """A pool that can never start would wait for ever: some node must have all that a worker asks
    for."""
    asked = {"CPU": options.cpus, "GPU": options.gpus, "memory": float(options.memory or 0)}
    if any(all(node.get(k, 0.0) >= v for k, v in asked.items()) for node in nodes):
        return
    for name, wanted in asked.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if wanted > most:
            unit, scale = (" MiB of memory", 2**20) if name == "memory" else (f" {name}", 1)
            raise BulkError(
                f"a worker asks for {wanted / scale:g}{unit}, but no node of the cluster has more "
                f"than {most / scale:.0f}; change --worker-{name.lower()}"
                + ("" if name == "memory" else "s")
            )
    raise BulkError(
        "no node of the cluster has all that a worker asks for at once; change --worker-cpus, "
        "--worker-gpus, --worker-memory"
    )


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _dataset(job: Job, load: Loader, todo: Todo, plan: str, options: RayOptions) -> Any:
    import ray
    from ray.data import ActorPoolStrategy

    rows = [
        {"part": number, "place": json.dumps(asdict(place))}
        for number, place in enumerate(todo.parts)
    ]
    workers = min(options.workers, len(rows))
    blocks = max(-(-len(rows) // _ROWS_A_BLOCK_AT_MOST), min(len(rows), _BLOCKS_A_WORKER * workers))
    resources: dict[str, Any] = {"num_cpus": options.cpus}
    if options.gpus:
        resources["num_gpus"] = options.gpus
    if options.memory is not None:
        resources["memory"] = options.memory
    return ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        _Actor,
        fn_constructor_args=(job, load, plan),
        batch_size=1,
        # One is enough to go on with when a node is lost.
        compute=ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
        **resources,
    )


class _Actor:
    """A worker, as Ray Data calls it. Errors of ours go back as rows, not as failures of Ray."""

    def __init__(self, job: Job, load: Loader, plan: str) -> None:
        self._job, self._plan = job, plan
        self._error: CtcSpeechError | None = None
        try:
            self._worker = Worker(job, load)
        except CtcSpeechError as error:
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for number, text in zip(batch["part"], batch["place"], strict=True):
            if self._error is not None:
                raise self._error
            place = PartPlace(**json.loads(str(text)))
            data = self._job.storage.read(self._plan, place.start, place.end)
            outcome = self._worker.do(place.parse(data))
            yield {"part": [int(number)], "outcome": [json.dumps(asdict(outcome))]}


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Errors of actors as they were raised there; what Ray itself says as a BulkError."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        seen = 0
        while cause is not None and seen < 10:
            inner = getattr(cause, "cause", None) or cause.__cause__
            if isinstance(cause, CtcSpeechError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from error
            cause, seen = inner, seen + 1
        text = str(error).strip().splitlines()
        raise BulkError(f"Ray gave up: {text[-1] if text else error!r}") from error
