import fault_parts
import lightning as L
import pytest
import torch
from faulty import Faults
from small import merged

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.demo.controls import PerfectCaptions


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_demo():
    return demo.DemoDataModule(seed=7, n_id=64, n_ood=64, batch_size=16)


@pytest.fixture
def run(small_demo, tmp_path):
    """Run the small demo with perfect captions (or another MLLM); returns the memory, the model and the
    results.

    Settings of the memory go on top of those of `small`, group by group: `run(schedule={"every": 3})`.
    """

    def run(mllm=None, data=None, model=None, **settings):
        data = data or small_demo
        memory, report = NegativeMemory(mllm or PerfectCaptions(small_demo), **merged(settings)), Report()
        model = model or ANTS(demo.CLIP, **demo.SETTINGS["model"])
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[memory, report],
            default_root_dir=tmp_path,
        )
        trainer.test(model, data, verbose=False)
        return memory, model, report.results

    return run


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def uncached(faults, tmp_path_factory):
    return fault_parts.run(faults.data(), tmp_path_factory.mktemp("uncached"))
