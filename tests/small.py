"""The settings of `NegativeMemory` for the small demo, by group; settings by dotted name."""

from ants_lightning.common.groups import changed

SETTINGS = {"ens": {"size": 50}, "vsnl": {"delta": 0.5}, "schedule": {"every": 2, "min_images": 16}}


def merged(settings, base=SETTINGS):
    """The base with these settings on top, group by group; `{"negatives.keep": 2}` is `{"negatives":
    {"keep": 2}}`.
    """
    for name, value in settings.items():
        group, dot, setting = name.partition(".")
        base = changed(base, {group: {setting: value}} if dot else {name: value})
    return base
