"""What `docs/architecture.md` and the other documents name is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ants_lightning"
ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
WALK = (ROOT / "docs/architecture.md").read_text()


def dotted(text):
    """Names in backticks that begin with a room and a dot."""
    found = re.findall(r"`(?:ants_lightning\.)?([a-z_]+(?:\.\w+)+)`", text)
    return sorted(
        {
            name
            for name in found
            if name.split(".")[0] in ROOMS and not name.endswith((".py", ".json", ".jsonl"))
        }
    )


def resolve(name):
    """The object of a dotted name below the package."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["ants_lightning", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("name", dotted(WALK))
def test_each_step_of_the_walk_is_there(name):
    assert resolve(name).__doc__


def test_the_walk_enters_every_room_that_an_image_or_a_sentence_passes():
    passed = {name.split(".")[0] for name in dotted(WALK)}
    assert (
        passed >= ROOMS - {"__init__", "__main__", "assets", "common", "demo", "py"}
        and len(dotted(WALK)) > 30
    )


def test_names_that_are_not_there_would_be_found():
    with pytest.raises(AttributeError):
        resolve("method.scores.no_such_score")
    with pytest.raises(AttributeError):
        resolve("attic.scores")


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
NOW = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # which names what is gone


@pytest.mark.parametrize(
    "path", sorted([*NOW, *PACKAGE.rglob("*.py")]), ids=lambda path: str(path.relative_to(ROOT))
)
def test_documents_and_docstrings_name_nothing_that_is_gone(path):
    for name in dotted(path.read_text()):
        resolve(name)


def named_tests():
    for path in sorted(DOCUMENTS):
        for file, name in re.findall(r"(test_\w+\.py)::(\w+)", path.read_text()):
            yield path.name, file, name


@pytest.mark.parametrize(("document", "file", "name"), sorted(set(named_tests())))
def test_documents_name_tests_where_they_stand(document, file, name):
    (found,) = ROOT.glob(f"tests/**/{file}")
    assert re.search(rf"^ *def {name}\b", found.read_text(), re.M), f"{document}: no {name} in {file}"
