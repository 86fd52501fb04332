import lightning as L
import pytest
import torch

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
    """Run the small demo with perfect captions (or another MLLM); returns the memory, the model and the results."""

    def run(mllm=None, data=None, model=None, **settings):
        data = data or small_demo
        settings = {"refresh_every": 2, "min_images": 16, "delta": 0.5, "ens_size": 50, **settings}
        memory, report = NegativeMemory(mllm or PerfectCaptions(small_demo), **settings), Report()
        model = model or ANTS(demo.CLIP, **demo.WORDS, **demo.SETTINGS["model"])
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[memory, report], default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.test(model, data, verbose=False)
        return memory, model, report.results

    return run
