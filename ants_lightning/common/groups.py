"""Settings that belong together, as typed dataclasses that also take plain dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ants_lightning.common.settings import plain

Group = TypeVar("Group", bound="SettingsGroup")


@dataclass(frozen=True)
class SettingsGroup:
    """Base of a group of settings.

    Scalars and arrays of NumPy and torch become plain Python; then `check` is called.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, SettingsGroup):
                object.__setattr__(self, field.name, plain(value))
        self.check()

    def check(self) -> None:
        """Raise a ValueError that names the first setting out of range, and its value."""

    def asdict(self) -> dict[str, Any]:
        """The settings as plain Python, as they stand in `results.json`."""
        return asdict(self)


def group_of(kind: type[Group], name: str, given: Group | Mapping[str, Any] | None) -> Group:
    """A group of settings from what the user gave.

    Args:
        kind: class of the group.
        name: of the argument that holds it, for errors.
        given: the group itself, a dict of some of its settings, or None for the defaults.

    Raises:
        ValueError: for anything else, an unknown setting, or a value out of range.
    """
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    known = [field.name for field in fields(kind)]
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a {kind.__name__} or a dict of {', '.join(known)}, got {given!r}")
    for key in given:
        if key not in known:
            raise ValueError(f"{name} has no setting {key!r}; it has {', '.join(known)}")
    return kind(**given)


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed.

    Where both values of a name are dicts (a group of settings), only the settings in the change are replaced.

    Example:
        >>> changed({"ens": {"size": 100, "init": "empty"}, "persist": True}, {"ens": {"size": 50}})
        {'ens': {'size': 50, 'init': 'empty'}, 'persist': True}
    """
    found = dict(settings)
    for name, value in changes.items():
        is_group = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = {**found[name], **value} if is_group else value
    return found
