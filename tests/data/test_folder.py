"""The unlabelled images of a folder, as files of every kind."""

import os

import lightning as L
import pandas as pd
import pytest
from PIL import Image

from ants_lightning import ANTS, NegativeMemory, demo
from ants_lightning.data import FolderDataModule
from ants_lightning.data.folder import FolderImages
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES


def fill(folder, n=6):
    """Drawn images in a folder and a subfolder, a torn one, and files that are no images."""
    images = demo.DrawnImages(ID_CLASSES, n, 3)
    (folder / "b").mkdir(parents=True)
    for i in range(n):
        images[i][0].save(folder / ("b" if i % 2 else "") / f"{i}.png")
    (folder / "b" / "0torn.PNG").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    (folder / "sheet.csv").write_text("no image")
    return images


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "unknown")
    return tmp_path / "unknown"


def predict(data, folder, *callbacks, **settings):
    model = ANTS(demo.CLIP, negatives=demo.WORDS, **settings)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    return model, trainer.predict(model, data)


NAMES = ["0.png", "2.png", "4.png", "b/0torn.PNG", "b/1.png", "b/3.png", "b/5.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_all_images_come_in_order_with_their_paths_and_a_torn_one_is_told(folder, tmp_path, workers):
    _, batches = predict(
        FolderDataModule(str(folder), ID_CLASSES, batch_size=4, num_workers=workers), tmp_path
    )
    assert [path for batch in batches for path in batch["path"]] == [
        str(folder / name) for name in NAMES if "torn" not in name
    ]
    assert [i for batch in batches for i in batch["index"].tolist()] == [0, 1, 2, 4, 5, 6]
    (lost,) = [lost for batch in batches for lost in batch["lost"]]
    assert (lost["index"], lost["path"]) == (3, str(folder / NAMES[3])) and "truncated" in lost["why"]
    assert all(batch["label"] is None for batch in batches) and batches[0]["class_name"][0] in ID_CLASSES


def test_scores_are_those_of_the_images_and_class_names_may_be_a_file(folder, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(ID_CLASSES))
    model, batches = predict(FolderDataModule(str(folder), str(tmp_path / "names.txt"), 4, 0), tmp_path)
    assert model.class_names == list(ID_CLASSES)
    for path, score in zip(batches[0]["path"], batches[0]["scores"]["neglabel"].tolist(), strict=True):
        with Image.open(path) as image:
            wanted = model(model.preprocess(image.convert("RGB"))[None])["scores"]["neglabel"]
        assert score == pytest.approx(float(wanted), abs=1e-6)


def test_a_transform_of_ones_own_replaces_that_of_the_model(folder, tmp_path):
    model = ANTS(demo.CLIP, class_names=ID_CLASSES)
    data = FolderDataModule(str(folder), None, 4, 0, transform=lambda image: model.preprocess(image) * 0)
    _, batches = predict(data, tmp_path, class_names=ID_CLASSES)
    scores = batches[1]["scores"]["mcm"]
    assert (scores - scores[0]).abs().max() < 1e-6


def test_the_mllm_sees_the_images_of_the_folder(tmp_path):
    images = fill(tmp_path / "unknown", n=24)
    raw = FolderImages([str(tmp_path / "unknown/0.png")], None).raw_image(0)
    assert raw.tobytes() == images[0][0].tobytes() and raw.mode == "RGB"

    class Seeing(PerfectCaptions):
        shown = 0

        def describe(self, some, avoid):
            known = {images[i][0].tobytes() for i in range(24)}
            assert all(image.tobytes() in known for image in some)
            self.shown += len(some)
            return ["a yellow octagon"] * len(some)

    mllm = Seeing(demo.DemoDataModule(n_id=8, n_ood=8))
    memory = NegativeMemory(mllm, {"gamma": 1.0}, schedule={"every": 2, "min_images": 4}, on_failure="raise")
    model, _ = predict(FolderDataModule(str(tmp_path / "unknown"), ID_CLASSES, 4, 0), tmp_path, memory)
    assert mllm.shown > 0 and "a yellow octagon" in model.spaces.ens.labels


def test_no_folder_and_no_image_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*nowhere"):
        predict(FolderDataModule(str(tmp_path / "nowhere"), ID_CLASSES), tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.md").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no images in the folder.*empty"):
        predict(FolderDataModule(str(tmp_path / "empty"), ID_CLASSES), tmp_path)


def test_what_a_folder_holds_besides_is_left_out_and_told(folder, tmp_path, caplog):
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/0-checkpoint.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "away").symlink_to(folder / "b")  # in the folder already
    os.mkfifo(folder / "pipe.png")
    _, batches = predict(FolderDataModule(str(folder), ID_CLASSES, batch_size=4, num_workers=0), tmp_path)
    assert [path for batch in batches for path in batch["path"]] == [
        str(folder / name) for name in NAMES if "torn" not in name
    ]
    told, lost = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert lost.endswith(
        "images were left out: 1 could not be read, 0 gave NaN or Inf"
    )  # the torn one, at the end
    assert (
        "1 hidden" in told
        and "1 no regular files" in told
        and "1 links to a folder that is taken already" in told
    )


def test_a_thin_image_is_scored_by_its_middle(tmp_path):
    (tmp_path / "lines").mkdir()
    Image.new("RGB", (1, 30_000), (250, 0, 0)).save(tmp_path / "lines/line.png")
    Image.new("RGB", (9, 9), (250, 0, 0)).save(tmp_path / "lines/square.png")
    _, (batch,) = predict(FolderDataModule(str(tmp_path / "lines"), ID_CLASSES, num_workers=0), tmp_path)
    assert batch["features"][0].tolist() == pytest.approx(batch["features"][1].tolist(), abs=1e-5)


def test_paths_of_a_table_are_taken_by_position(folder):
    paths = pd.Series([str(folder / name) for name in NAMES if "torn" not in name]).sample(
        frac=1, random_state=0
    )
    images = FolderImages(paths, lambda image: image)
    assert [images[i]["path"] for i in range(len(images))] == paths.tolist()
