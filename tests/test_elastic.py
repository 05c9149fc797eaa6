"""Processes of a training that die: torchrun starts them again, or others go on in their place."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tone_training import differences, metrics, tone_shards, write_training

# As often as the clock lets it; which steps are done again is read from what was trained on.
OVERRIDES = ["train.epochs=3", "train.checkpoint_minutes=1e-6", "train.validate_every=3"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp("tones"))


def environment(**values):
    return {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", **values}


# Kills itself in the steps that KILLS names for this start: {"0": [rank, step], ...}.
KILLED = """
import json, os, signal, sys
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import Trainer, train

start, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], int(os.environ["RANK"])
kill, step = json.loads(os.environ["KILLS"]).get(start), Trainer._step

def dying(self, batches, progress):
    if kill == [rank, self.step]:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batches, progress)

Trainer._step = dying
train(load_config(sys.argv[1], sys.argv[3:]), sys.argv[2])
"""


def torchrun(folder: Path, config: Path, run: Path, kills: dict[str, list[int]], restarts: int):
    program = folder / "program.py"
    program.write_text(KILLED)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", str(restarts), "--monitor-interval", "0.1"),
        *(str(program), str(config), str(run), *OVERRIDES),
    ]
    return subprocess.run(
        command,
        env=environment(KILLS=json.dumps(kills)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_torchrun_restarts_what_was_killed_and_the_bits_are_the_same(config, tmp_path):
    """Killed in the first epoch, once more after the second, and each rank once."""
    done = torchrun(tmp_path, config, tmp_path / "whole", {}, 0)
    assert done.returncode == 0, done.stderr
    steps = len(metrics(tmp_path / "whole", "step"))
    assert steps % 3 == 0
    kills = {"0": [1, steps // 3 - 2], "1": [0, steps - 2]}
    done = torchrun(tmp_path, config, tmp_path / "parts", kills, 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming in epoch") == 2
    assert not list(differences(tmp_path / "whole", tmp_path / "parts"))
    # A run that is there already is refused, also when torchrun tries again and again.
    done = torchrun(tmp_path, config, tmp_path / "whole", {}, 1)
    assert done.returncode and "already holds a run" in done.stderr
    assert "resuming" not in done.stdout


# Forks the processes of each start in turn; those of a start are [[processes, step of rank 0's
# death], ...]. Notes in files the utterances of each step; prints exit codes.
STARTS = """
import json, os, signal, socket, sys, traceback
from ctcspeech.train.config import load_config
from ctcspeech.train.trainer import Trainer, train

config, folder, starts, *overrides = sys.argv[1:]
take_step = Trainer._step

def work(number, rank, world, port, kill):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))

    def noted(self, batches, progress):
        if kill == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        ids = [utterance.id for batch in batches for utterance in batch.utterances]
        with open(f"{folder}/seen-{number}-{rank}", "a") as file:
            file.write(json.dumps([self.epoch, self.step, ids]) + "\\n")
        return take_step(self, batches, progress)

    Trainer._step = noted
    train(load_config(config, overrides), f"{folder}/run", resume=True, report=lambda _: None)

for number, (world, kill) in enumerate(json.loads(starts)):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(world):
        children.append(os.fork())
        if not children[-1]:
            code = 1
            try:
                work(number, rank, world, port, kill if rank == 0 else None)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shards", [False, True])
def test_other_numbers_of_processes_go_on_with_the_rest_of_an_epoch(tmp_path, shards):
    """2, 1, 2, 3 processes one after the other, each killed in mid-epoch: no utterance is trained
    twice or left out, but for the steps since the checkpoint, which are done again."""
    config = tone_shards(tmp_path, 11) if shards else write_training(tmp_path)
    starts = [(2, 3), (1, 9), (2, 14), (3, None)]  # processes, and the step in which rank 0 dies
    overrides = [*OVERRIDES, "data.batch_seconds=3"]
    done = subprocess.run(
        [sys.executable, "-c", STARTS, config, tmp_path, json.dumps(starts), *overrides],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    codes = [json.loads(line) for line in done.stdout.splitlines()]
    killed = -signal.SIGKILL
    assert codes == [[killed, 1], [killed], [killed, 1], [0, 0, 0]], done.stderr
    trained: dict[tuple[int, int], list[list[str]]] = {}  # by (epoch, step): of all ranks
    again, in_mid_epoch = 0, 0
    for number, (world, _) in enumerate(starts):
        files = [tmp_path / f"seen-{number}-{rank}" for rank in range(world)]
        noted = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        # What the killed start did after its last checkpoint does not count.
        begun = tuple(noted[0][0][:2])
        again += sum(1 for place, ids in trained.items() if place >= begun and any(ids))
        trained = {place: ids for place, ids in trained.items() if place < begun}
        in_mid_epoch += any(epoch == begun[0] for epoch, _ in trained)
        done = len(noted[0])  # another may have begun the step in which rank 0 died
        for lines in zip(*(lines[:done] for lines in noted), strict=True):
            place = lines[0][:2]
            assert all(line[:2] == place for line in lines)
            trained.setdefault(tuple(place), []).extend(line[2] for line in lines)
    all_ids = [f"train-{number:03}" for number in range(48)]
    for epoch in range(3):
        counts = Counter(
            name for (of, _), ids in trained.items() if of == epoch for part in ids for name in part
        )
        assert counts == Counter(all_ids)
    assert in_mid_epoch == 3 and again <= len(starts)
    assert [e["utterances"] for e in metrics(tmp_path / "run", "epoch")] == [48] * 3
