"""Models and trainers for the tests of saved spaces."""

from small import merged

from ants_lightning import ANTS, demo


def make_model(**changes):
    return ANTS(demo.CLIP, pretrained=None, **merged(changes, demo.SETTINGS["model"]))


def loaded(folder, class_names):
    model = make_model(class_names=class_names, spaces=folder)
    model.setup("test")
    model.prepare()
    return model
