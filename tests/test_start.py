"""What a fresh process loads before it has anything to do."""

import subprocess
import sys

import pytest

HEAVY = (
    "accelerate",
    "aiohttp",
    "bitsandbytes",
    "datasets",
    "httpx",
    "inflect",
    "json_repair",
    "open_clip",
    "openai",
    "pyarrow",
    "timm",
    "torchvision",
    "transformers",
)
COMMAND = """
import contextlib
from ants_lightning.cli import main
with contextlib.suppress(SystemExit):
    main({words})
"""


def loaded(code):
    """Modules that a fresh process loads for `code`, beyond those that torch and Lightning load
    (torchmetrics: transformers).
    """
    program = (
        f"import sys\nimport torch, lightning\nbefore = "
        f"set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Error" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("words", [None, ["--help"], ["test", "--help"]])
def test_neither_the_import_nor_help_loads_the_libraries_of_models(words):
    lines = loaded("import ants_lightning" if words is None else COMMAND.format(words=words))
    modules = lines[-1].split()
    assert "ants_lightning.mllm.served" in modules and (words is None or lines[0].startswith("usage:"))
    assert not [module for module in modules if module.split(".")[0] in HEAVY]


def test_the_module_is_the_command():
    told = [
        subprocess.run([*command, "table", "--help"], capture_output=True, text=True, check=True).stdout
        for command in (["ants-lightning"], [sys.executable, "-m", "ants_lightning"])
    ]
    assert told[0] == told[1] and told[0].startswith("usage: ants-lightning table")
