"""Feature caches of the small demo."""

import lightning as L
from small import merged

from ants_lightning import ANTS, Report, demo
from ants_lightning.data import OODDataModule
from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES


def make_data(features=None, seed=7, **settings):
    drawn = [
        demo.DrawnImages(names, 48, 70 + i) for i, names in enumerate((ID_CLASSES, list(TEXTURES), SCENES))
    ]
    return OODDataModule(
        drawn[0],
        near={"tex/tures": drawn[1]},
        far={"scenes": drawn[2]},
        batch_size=16,
        num_workers=0,
        seed=seed,
        features=None if features is None else str(features),
        **settings,
    )


def make_model(**settings):
    return ANTS(demo.CLIP, **merged(settings, demo.SETTINGS["model"]))


QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


def told(folder, data=None):
    """ID accuracy of a run from features, and the labels that it had."""
    model = make_model()
    L.Trainer(**QUIET, callbacks=[Report()], default_root_dir=folder.parent / "run").test(
        model, data, verbose=False
    )
    return model.results["scenes"]["id_accuracy"]
