"""Several processes over gloo end in the same state as one process with their batches together; one that
fails ends all.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ants_lightning.metrics import detection_metrics

JOB = Path(__file__).with_name("ddp_job.py")
CASES = runpy.run_path(str(JOB))["CASES"]
SIZES = {  # of the streams, ID and OOD
    "demo": {"lookalikes": (61, 60), "textures": (61, 60), "scenes": (61, 72)},
    "persist": {"lookalikes": (61, 60), "textures": (61, 60), "scenes": (61, 72)},
    "foreign": {"long": (31, 30), "tiny": (1, 1), "rest": (24, 25)},
    "short": {"lookalikes": (1, 1), "textures": (1, 1), "scenes": (1, 72)},
}
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


def start(folder, what, devices, *more, launcher=(), seconds=300):
    """Run a job and the ranks that it starts; from a failure that it tells of it has a minute to end.

    Returns exit code, what was printed, seconds since the failure, and how many processes are left.
    """
    command = [sys.executable, *launcher, str(JOB), str(folder), what, str(devices), *map(str, more)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    failed, since = folder / "failed", time.monotonic()
    while True:
        try:
            # All ranks hold the pipe: it ends with the last of them
            output, _ = process.communicate(timeout=1)
            break
        except subprocess.TimeoutExpired:
            told = failed.read_text("utf-8") if failed.exists() else ""
            since, seconds = (float(told), 60) if told else (since, seconds)
            if time.monotonic() > since + seconds:
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(
                    f"{what}: {devices} processes did not end within {seconds} "
                    f"s:\n{process.communicate()[0][-3000:]}"
                )
    took, patience = time.monotonic() - since, time.monotonic() + 5
    while (
        left := running(process.pid)
    ) and time.monotonic() < patience:  # what has closed the pipe may still be on its way out
        time.sleep(0.1)
    return process.returncode, output, took, left


def running(session):
    """How many processes of a session there are; zombies do not count."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text("utf-8").rsplit(")", 1)[1].split()[:4]
        except OSError:  # ended meanwhile
            continue
        count += its_session == str(session) and state != "Z"
    return count


def numbers(tree, path="") -> Iterator[tuple[str, float]]:
    """The numbers of nested dicts, by path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{path}/{key}")
        elif isinstance(value, int | float) and key != "mllm_seconds":
            yield f"{path}/{key}", float(value)


def difference(what, one, other):
    """Of two trees with the same leaves: the largest difference, which is printed too."""
    first, second = dict(numbers(one)), dict(numbers(other))
    assert first.keys() == second.keys()
    size, path = max((abs(value - second[path]), path) for path, value in first.items())
    print(f"{what}: largest difference {size:.1e}, {path}")
    return size


def measured(images):
    """The metrics of dumped scores, each image counted once."""
    is_ood = torch.tensor([image["label"] < 0 for image in images])
    names = [name for name in images[0] if name != "label"]
    # Float32 would tie
    scores = {name: torch.tensor([image[name] for image in images], dtype=torch.float64) for name in names}
    return {name: detection_metrics(column, is_ood) for name, column in scores.items()}


def shares_of(folder, devices):
    """Scores by stream and place, of each rank."""
    return [torch.load(folder / f"scores_{rank}.pt", weights_only=True) for rank in range(devices)]


def read_run(folder):
    """Streams of `results.json`, the texts of the spaces by stream, and the lines of the record, sorted:
    ranks answer in turn.
    """
    spaces = {
        path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.glob("spaces/*/*.txt")
    }
    streams = json.loads((folder / "results.json").read_text("utf-8"))["streams"]
    return streams, spaces, sorted((folder / "mllm.jsonl").read_text("utf-8").splitlines())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """All cases in one process, batch 12."""
    folder = tmp_path_factory.mktemp("alone")
    code, output, _, _ = start(folder, "all", 1, 12)
    assert code == 0, output[-6000:]
    return folder


def compare(one, several, devices, case):
    """Every score, the spaces, λ, γ and the like, and the metrics of one process and of several."""
    (streams, spaces, record), (their_streams, their_spaces, their_record) = (
        read_run(one / case),
        read_run(several / case),
    )
    assert spaces == their_spaces and len(spaces) >= 8  # the very same texts in the same order
    assert record == their_record and len(record) > 20
    assert list(streams) == list(their_streams) == list(SIZES[case])
    everything, shares = shares_of(one / case, 1)[0], shares_of(several / case, devices)
    for name, sizes in SIZES[case].items():
        title = f"{case}, {name}, 1 and {devices} processes"
        parts = [share.get(name, {}) for share in shares]  # a rank may have none
        for rank, part in enumerate(parts):
            assert list(part) == list(range(rank, sum(sizes), devices))
        merged = {place: image for part in parts for place, image in part.items()}
        for stream, images in ((streams[name], everything[name]), (their_streams[name], merged)):
            assert (stream["n_id"], stream["n_ood"]) == sizes and len(images) == sum(sizes)
            assert stream["scores"] == {
                key: pytest.approx(m) for key, m in measured(list(images.values())).items()
            }
            assert stream["mllm_failures"] == 0
        assert difference(f"{title}, scores", everything[name], merged) < 1e-4  # cosines × 100 in float32
        adaptation = [
            {k: v for k, v in results[name].items() if k != "scores"} for results in (streams, their_streams)
        ]
        assert difference(f"{title}, adaptation", *adaptation) < 1e-5
        # Two images whose scores differ by less than rounding may change places: one pair is 1 / (61 · 60).
        metrics = [
            {k: {"auroc": v["auroc"]} for k, v in results[name]["scores"].items()}
            for results in (streams, their_streams)
        ]
        assert difference(f"{title}, AUROC", *metrics) < 1e-3
    last = their_streams[list(SIZES[case])[-1]]
    assert (
        last["n_ens"] > 0 < last["n_vsnl"] and last["mllm_calls"] + last["mllm_recalled"] > 0
    )  # it did adapt


@pytest.mark.parametrize(("devices", "batch_size"), [(2, 6), (3, 4), (4, 3)])
def test_several_ranks_equal_one(alone, tmp_path, devices, batch_size):
    code, output, _, left = start(tmp_path, "all", devices, batch_size)
    assert code == 0 and left == 0, output[-6000:]
    for case in CASES:
        compare(alone, tmp_path, devices, case)
    assert "TensorDataset was re-made, for its DistributedSampler" in output
    if devices > 2:
        return
    files = sorted(path.name for path in (alone / "features").iterdir())  # encoded by the same jobs
    assert (
        sorted(path.name for path in (tmp_path / "features").iterdir()) == files and len(files) == 5
    )  # no parts are left
    for name in (file for file in files if file.endswith(".safetensors")):
        one, two = (load_file(folder / "features" / name) for folder in (alone, tmp_path))
        assert len(one["label"]) == (61 if name == "id.safetensors" else 60)
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_torchrun_starts_it_too(alone, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    code, output, _, left = start(tmp_path, "short", 2, 6, launcher=launcher)
    assert code == 0 and left == 0, output[-6000:]
    compare(alone, tmp_path, 2, "short")


def test_slurm_starts_it_on_two_nodes(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "ants",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_LOCALID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(tmp_path), "short", "1", "6"],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slurm, "SLURM_NODEID": str(rank), "SLURM_PROCID": str(rank)},
        )
        for rank in range(2)
    ]
    for task in tasks:  # what srun would start, one on each node
        output, _ = task.communicate(timeout=300)
        assert task.returncode == 0, output[-6000:]
    compare(alone, tmp_path, 2, "short")


@pytest.mark.parametrize(
    ("when", "rank"), [("setup", 1), ("setup", 0), ("model", 1), ("data", 1), ("first", 1), ("describe", 1)]
)
def test_a_rank_that_fails_ends_all(tmp_path, when, rank):
    code, output, seconds, left = start(tmp_path, f"fail_{when}", 2, 6, rank)
    print(f"{when} fails on rank {rank}: exit code {code}, all have ended {seconds:.1f} s later")
    told = {
        "first": "RuntimeError: the MLLM cannot answer, so nothing would be learnt from the streams: "
        "rank 1: asked to describe a picture it raised OSError: no eyes here",
        "describe": "RuntimeError: rank 1: mllm.describe: OSError: no eyes here",
    }.get(when, "OSError: no eyes here")
    assert code != 0 and f"[rank{rank}]: {told}" in output and left == 0
    if when in ("first", "describe"):
        assert f"[rank0]: {told}" in output  # known to all, so that none is cut off
    if when == "describe":
        streams = json.loads((tmp_path / "continued" / "results.json").read_text("utf-8"))["streams"]
        for stream in (
            streams.values()
        ):  # before, with `on_failure: continue`: that rank's sentences are lost, and nothing else
            assert (
                0 < stream["mllm_failures"] < stream["mllm_calls"] and stream["n_ens"] > 0 < stream["n_vsnl"]
            )
            assert stream["n_id"] == 61 and set(stream["scores"]) >= {
                "mcm",
                "neglabel",
                "ens",
                "vsnl",
                "ants",
            }
