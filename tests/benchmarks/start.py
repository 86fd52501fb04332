"""How long the package and its command take to start, against `import torch, lightning`: `python
tests/benchmarks/start.py`.

Fresh processes in turn, so that all meet the same machine; medians of the wall time of whole processes.
"""

import argparse
import subprocess
import sys
import time
from statistics import median

BASE = "import torch, lightning"
COMMAND = "from ants_lightning.cli import main; main({!r})"
STARTS = {
    BASE: BASE,
    "import ants_lightning": "import ants_lightning",
    "ants-lightning --help": COMMAND.format(["--help"]),
    "ants-lightning test --help": COMMAND.format(["test", "--help"]),
}


def seconds(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="fresh processes of each kind")
    times = parser.parse_args().times
    seconds(BASE)  # fills the disk cache
    took = [{name: seconds(code) for name, code in STARTS.items()} for _ in range(times)]
    base = median(row[BASE] for row in took)
    for name in STARTS:
        middle = median(row[name] for row in took)
        print(f"{name:28} {middle:6.2f} s  {middle / base:5.2f} x")


if __name__ == "__main__":
    main()
