"""Runs for the tests of the report."""

from small import merged

from ants_lightning import ANTS, demo


def make_model(**settings):
    return ANTS(demo.CLIP, **merged(settings, demo.SETTINGS["model"]))
