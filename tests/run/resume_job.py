"""Runs that are killed and resumed, for `test_resume.py`.

One process imports and builds everything, and forks each run: a start of Python with torch takes longer than
a run.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import lightning as L
import torch
from PIL import ImageStat

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.baselines import EOE, TANL, AdaNeg
from ants_lightning.mllm.record import Record
from ants_lightning.run.snapshots import Snapshots

torch.set_num_threads(1)


class Events:
    """Counts what happens in this process, and kills it at the n-th of a kind."""

    def __init__(self, kind="", n=0):
        self.kind, self.n, self.counts = kind, n, {}

    def tick(self, kind, last_words=lambda: None):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if (kind, self.counts[kind]) == (self.kind, self.n):
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self):
        """Tick at each write to the disk, each rename, and halfway in each write of the record."""
        fsync, rename, add = os.fsync, Path.rename, Record.add
        os.fsync = lambda handle: (self.tick("fsync"), fsync(handle))[1]
        Path.rename = lambda path, target: (self.tick("rename"), rename(path, target))[1]

        def add_some(record, answered, write=True):
            if answered and write:
                half = answered[: len(answered) // 2]

                def tear():
                    add(record, half)
                    record.path.open("ab").write(b'{"mllm": "torn')

                self.tick("record", tear)
            add(record, answered, write)

        Record.add = add_some


class ColourMLLM:
    """Answers that depend on the image and the names alone."""

    def __init__(self, events):
        self.events = events

    def setup(self, device):
        pass

    def identity(self):
        return {"model": "colour"}

    def describe(self, images, avoid):
        answers, words = [], demo.WORDS
        for image, name in zip(images, avoid, strict=True):
            self.events.tick("describe")
            red, green, blue = (int(x) for x in ImageStat.Stat(image).mean)
            adjective = words["adjectives"][(red + len(name)) % len(words["adjectives"])]
            noun = words["nouns"][(green + 3 * blue) % len(words["nouns"])]
            answers.append(f"a {adjective} {noun} no {red}")
        return answers

    def similar_classes(self, names, count=5, images=None):
        self.events.tick("similar")
        nouns = demo.WORDS["nouns"]
        return [[nouns[len(name) * (k + 3) % len(nouns)] for k in range(count)] for name in names]


class Tick(L.Callback):
    def __init__(self, events, term=0):
        self.events, self.term = events, term

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if outputs is not None:
            self.events.tick("batch")
            if self.events.counts["batch"] == self.term:
                os.kill(os.getpid(), signal.SIGTERM)


def make_model():
    return ANTS(
        demo.CLIP,
        pretrained=None,
        negatives={**demo.WORDS, "keep": 0.7},
        num_groups=5,
        baselines=[EOE(), AdaNeg(), TANL(labels=20)],
    )


def run(folder, kind="", n=0, resume=None, world=1, term=0):
    """A test run on 3 streams of 81 images, in 11 batches; of two ranks only the first has the last."""
    events = Events(kind, n)
    events.watch()
    memory = NegativeMemory(
        ColourMLLM(events), ens={"size": 40}, vsnl={"delta": 0.5}, schedule={"every": 2, "min_images": 20}
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Snapshots(3, resume), memory, Tick(events, term), Report()],
    )
    trainer.test(MODEL, demo.DemoDataModule(n_id=41, n_ood=40, batch_size=8 // world), verbose=False)
    Path(folder, "events.json").write_text(json.dumps(events.counts))


def fork(folder, rank=None, **settings):
    """A run in a process of its own."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(Path(folder, f"log{rank or 0}.txt"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if rank is not None:
            os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0")
        run(folder, **settings)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid, seconds=100):
    """The exit code, negative for a signal; `hung` for a process that had to be killed after this time."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hung"
        time.sleep(0.02)


def results(folder):
    path = Path(folder, "results.json")
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    for stream in content["streams"].values():
        del stream["mllm_seconds"]
    return content


def kill_and_resume(root, seed, counts):
    """Kill a run at a seeded point, every third one twice, and resume; what happened, as a row."""
    kinds = ["batch", "batch", "describe", "similar", "fsync", "rename", "record"]
    rng, folder, resume, ends, points = random.Random(seed), f"{root}/{seed}", None, [], []
    for _ in range(1 + (seed % 3 == 0)):
        kind = rng.choice(kinds) if points else kinds[seed % len(kinds)]
        left = max(1, counts[kind] // (1 + 4 * len(points)))  # little is left of the second run
        points.append((kind, rng.randint(1, left)))
        ends.append(wait(fork(folder, kind=points[-1][0], n=points[-1][1], resume=resume)))
        resume = "auto"
    code = wait(fork(folder, resume="auto")) if not Path(folder, "results.json").exists() else 0
    batches = json.loads(Path(folder, "events.json").read_text())["batch"]
    return {
        "seed": seed,
        "points": points,
        "ends": ends,
        "code": code,
        "batches": batches,
        "equal": results(folder) == results(f"{root}/whole"),
        "left": os.path.exists(f"{folder}/snapshots"),
    }


def kills(root, seeds):
    """Rows of `kill_and_resume`, by two processes at a time."""
    code = wait(fork(f"{root}/whole"))
    counts = json.loads(Path(root, "whole/events.json").read_text())
    lanes = []
    for lane in range(2):
        pid = os.fork()
        if not pid:
            rows = [kill_and_resume(root, seed, counts) for seed in range(lane, seeds, 2)]
            Path(root, f"lane{lane}.json").write_text(json.dumps(rows))
            os._exit(0)
        lanes.append(pid)
    ends = [wait(pid, 500) for pid in lanes]
    rows = [row for lane in range(2) for row in json.loads(Path(root, f"lane{lane}.json").read_text())]
    return {"code": code, "counts": counts, "lanes": ends, "rows": rows}


def two_ranks(folder, first=None, second=None, **settings):
    """Exit codes of a gloo job of two ranks, with settings of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    pids = [
        fork(folder, rank=rank, world=2, **settings, **(more or {}))
        for rank, more in enumerate((first, second))
    ]
    return [wait(pid) for pid in pids]


def position(folder):
    newest = max(Path(folder, "snapshots").glob("[0-9]*"))
    return [json.loads((newest / f"rank{rank}.json").read_text())["content"]["position"] for rank in range(2)]


def ranks(root):
    """What became of jobs of two ranks that were killed and terminated."""
    told = {"whole": two_ranks(f"{root}/whole2")}
    told["killed"] = two_ranks(f"{root}/killed", second={"kind": "batch", "n": 20})
    told["killed at"] = position(f"{root}/killed")
    newest = max(Path(root, "killed", "snapshots").glob("[0-9]*"))
    (newest / "rank1.safetensors").write_bytes(b"torn")
    shutil.copytree(f"{root}/killed", f"{root}/alone")
    told["killed, resumed"] = two_ranks(f"{root}/killed", resume="auto")
    told["terminated"] = two_ranks(f"{root}/terminated", second={"term": 13})
    told["terminated at"] = position(f"{root}/terminated")
    told["terminated, resumed"] = two_ranks(f"{root}/terminated", resume="auto")
    told["alone"] = wait(fork(f"{root}/alone", resume="auto"))
    whole = results(f"{root}/whole2")
    told["equal"] = [results(f"{root}/{name}") == whole for name in ("killed", "terminated")]
    logs = {"killed": "log1.txt", "alone": "log0.txt"}
    told["logs"] = {name: Path(root, name, file).read_text() for name, file in logs.items()}
    return told


if __name__ == "__main__":
    MODEL = make_model()
    root = sys.argv[1]
    report = {"kills": kills(root, int(sys.argv[2])), "ranks": ranks(root)}
    Path(root, "report.json").write_text(json.dumps(report))
