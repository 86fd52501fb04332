"""A run killed at any point and resumed ends as one that nothing interrupted: same `results.json`, but for
the MLLM's seconds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

JOB = Path(__file__).with_name("resume_job.py")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the job has seen."""
    folder = tmp_path_factory.mktemp("resume")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(JOB), str(folder), "20"],
        env=env,
        timeout=900,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_twenty_of_twenty_killed_runs_end_as_the_whole_one(report):
    kills = report["kills"]
    assert kills["code"] == 0 and kills["lanes"] == [0, 0] and kills["counts"]["batch"] == 33
    for row in sorted(kills["rows"], key=lambda row: row["seed"]):
        print(row)
    assert len(kills["rows"]) == 20
    assert sum(row["equal"] for row in kills["rows"]) == 20
    assert all(row["code"] == 0 and not row["left"] for row in kills["rows"])
    assert all(row["ends"][0] == -signal.SIGKILL for row in kills["rows"])
    assert {row["points"][0][0] for row in kills["rows"]} == {
        "batch",
        "describe",
        "similar",
        "fsync",
        "rename",
        "record",
    }
    assert sum(row["batches"] < 33 for row in kills["rows"]) > 14  # most went on in the middle


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks_killed_or_terminated_end_as_the_whole_job(report):
    told = report["ranks"]
    assert told["whole"] == [0, 0]
    assert told["killed"][1] == -signal.SIGKILL and told["killed"][0] not in (0, "hung")
    assert told["killed, resumed"] == [0, 0]
    assert (
        "is not good and left out: " in told["logs"]["killed"]
        and "rank1.safetensors cannot be read" in told["logs"]["killed"]
    )
    assert told["terminated"] == [143, 143] and told["terminated, resumed"] == [0, 0]
    assert told["equal"] == [True, True]
    assert told["alone"] == 1 and "trainer.world_size was 2, now 1" in told["logs"]["alone"]
    # The same batches of both: the first rank alone has an eleventh in each stream.
    for first, second in (told["killed at"], told["terminated at"]):
        assert (
            first[-1] == second[-1]
            and set(first[:-1]) <= {11}
            and set(second[:-1]) <= {10}
            and len(first) == len(second)
        )


def start_command(folder, *more):
    """`ants-lightning test` on a small demo with the real LLaVA."""
    words = [
        "test",
        "--config",
        "configs/demo.yaml",
        "--trainer.default_root_dir",
        str(folder),
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--memory.schedule.every",
        "2",
        "--memory.schedule.min_images",
        "16",
        "--data.init_args.n_id",
        "24",
        "--data.init_args.n_ood",
        "24",
        "--data.init_args.batch_size",
        "8",
        "--snapshots.every",
        "2",
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", "from ants_lightning.cli import main; main()", *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def end_command(process, folder, serial, how):
    """Signal the process when it has written this snapshot; returns its exit code and what it printed."""
    until = time.monotonic() + 200
    while (
        not (folder / f"snapshots/{serial:06d}").exists()
        and process.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.01)
    process.send_signal(how)
    output = process.communicate(timeout=200)[0]
    return process.returncode, " ".join(output.split())


def test_the_command_killed_terminated_and_resumed_with_the_real_llava(tmp_path):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    undisturbed = start_command(whole)
    code, output = end_command(start_command(ended, "--resume", "auto"), ended, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL and "the run starts from the beginning" in output, output
    code, output = end_command(start_command(ended, "--resume", "auto"), ended, 5, signal.SIGTERM)
    assert code == 143 and "resuming from" in output and "SIGTERM: the run ends after" in output, output
    for process in (undisturbed, start_command(ended, "--resume", "auto")):
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
    assert "resuming from" in output
    results = [json.loads((folder / "results.json").read_text("utf-8")) for folder in (whole, ended)]
    for streams in (one["streams"] for one in results):
        assert all(
            stream["mllm_calls"] > 10 and stream.pop("mllm_seconds") > 0 for stream in streams.values()
        )
    assert results[0] == results[1] and not (ended / "snapshots").exists()
