"""Servers for the tests of served MLLMs."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import torch

from ants_lightning import demo
from ants_lightning.mllm import ServedMLLM


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(port):
    """A server process, once it answers."""
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        demo.LLAVA,
        "--port",
        str(port),
        "--dtype",
        "float32",
    ]
    process = subprocess.Popen(
        [*map(str, command), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return process
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    raise TimeoutError("no server after two minutes")


def ready_for(server, name="m", **settings):
    mllm = ServedMLLM(server.url, name, **{"max_retries": 0, **settings})
    mllm.setup(torch.device("cpu"))
    return mllm
