"""Text that does nothing where it is shown; what is logged, by the package and through the command."""

import io
import logging
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.logging import RichHandler

import ants_lightning
from ants_lightning import demo
from ants_lightning.common.text import filter_loggers, inert_record, one_line, show_error
from ants_lightning.demo.shapes import ID_CLASSES

ESCAPES = (
    "\x1b]0;OWNED\x07\x1b[2J\x1b[31mred\x9b31m"  # a title, a cleared screen, a colour, as 7 and as 8 bits
)
NASTY = {
    "escapes": (f"a{ESCAPES}.png", "a ]0;OWNED [2J [31mred 31m.png"),
    "a line break": ("b\nERROR all results are void.png", "b ERROR all results are void.png"),
    "other line breaks": ("b\r\x0b\x0c\x85\u2028\u2029x", "b x"),
    "overwriting": ("good.png\rbad\x08\x08\x08.png\0", "good.png bad .png"),
    "order of writing": ("a\u202egnp.exe\u2066\u200b", "agnp.exe"),
    "a broken name": ("a\udcff.png", "a.png"),
    "marks of no meaning here": ("[red]%s {} :smile: 猫 é.png", "[red]%s {} :smile: 猫 é.png"),
}


@pytest.mark.parametrize("kind", NASTY)
def test_a_text_is_one_printable_line(kind):
    text, shown = NASTY[kind]
    assert one_line(text) == shown and shown.isprintable()


def modules():
    folder = Path(ants_lightning.__file__).parent
    names = (path.relative_to(folder.parent).with_suffix("").parts for path in folder.rglob("*.py"))
    return sorted(".".join(name).removesuffix(".__init__") for name in names)


def test_each_module_logs_inert_text_to_any_handler():
    """A Python user's handler, on the root or on the package, with no command involved."""
    text, shown = NASTY["escapes"]
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        assert "ants_lightning.adapt.memory" in modules() and "ants_lightning.demo.train.llava" in modules()
        for name in modules():
            logging.getLogger(name).warning("%s cannot be read: %s", text, OSError("\x1b[2J\nERROR"))
            assert stream.getvalue() == f"{shown} cannot be read: [2J ERROR\n", name
            stream.seek(0)
            stream.truncate()
    finally:
        logging.getLogger().removeHandler(handler)


def test_filters_are_set_once():
    before = list(logging.getLogger("ants_lightning.adapt.memory").filters)
    filter_loggers(Path(ants_lightning.__file__).parent)
    assert (
        logging.getLogger("ants_lightning.adapt.memory").filters == before and before.count(inert_record) == 1
    )


def record(name, message, *args):
    return logging.LogRecord(name, logging.WARNING, "", 0, message, args, None)


def test_what_is_inert_stays_as_it_is():
    plain = record("ants_lightning.x", "%d  of %s", 3, "猫")
    assert inert_record(plain) and (plain.msg, plain.args) == ("%d  of %s", (3, "猫"))


def test_other_libraries_keep_their_lines_but_no_escapes():
    table = record("transformers.x", "LOAD REPORT\n  a | %s\n  b | 2", ESCAPES)
    assert inert_record(table)
    assert table.getMessage() == "LOAD REPORT\na | ]0;OWNED [2J [31mred 31m\n  b | 2"
    near = record("ants_lightning_x", "one\ntwo")
    assert inert_record(near) and near.getMessage() == "one\ntwo"


def test_rich_shows_no_markup_of_a_name():
    stream = io.StringIO()
    handler = RichHandler(console=Console(file=stream, width=200), show_path=False, show_time=False)
    handler.emit(record("ants_lightning.x", "%s", "[red]a[/red] [link=file:///x]b[/link] :smile: [/"))
    assert "[red]a[/red] [link=file:///x]b[/link] :smile: [/" in stream.getvalue()


@pytest.fixture
def nasty_folder(tmp_path):
    """One good image, and files that are none, with names that a terminal would act on."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "good.png")
    (folder / f"a{ESCAPES}.png").write_bytes(b"no image")
    (folder / "b\nERROR all results are void.png").write_bytes(b"")
    (tmp_path / "names.txt").write_text("\n".join(ID_CLASSES))
    return folder


def assert_inert(output):
    assert not {bytes([c]) for c in output} & {bytes([c]) for c in range(32) if c not in (9, 10)}
    assert "\x9b" not in output.decode("utf-8")
    assert not [line for line in output.decode("utf-8").splitlines() if line.strip().startswith("ERROR all")]


def predict(folder, tmp_path):
    """The command in a process of its own; exit code and all that it wrote to the terminal."""
    words = [
        "predict",
        "--model.model",
        demo.CLIP,
        "--model.pretrained",
        "null",
        "--model.negatives.nouns",
        "[gong,sea]",
        "--data",
        "ants_lightning.data.FolderDataModule",
        "--data.folder",
        str(folder),
        "--data.class_names",
        str(tmp_path / "names.txt"),
        "--data.num_workers",
        "0",
        "--trainer.accelerator",
        "cpu",
        "--trainer.logger",
        "false",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    code = "import sys; from ants_lightning.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_names_of_files_reach_the_terminal_inert(nasty_folder, tmp_path):
    code, output = predict(nasty_folder, tmp_path)
    assert code == 3 and b"OWNED" in output, output.decode()[-500:]
    assert_inert(output)


def test_an_error_that_ends_the_command_is_inert(nasty_folder, tmp_path):
    code, output = predict(nasty_folder / f"gone{ESCAPES}", tmp_path)
    assert code == 1 and b"no such folder" in output and b"OWNED" in output and b"Traceback" in output, (
        output.decode()[-500:]
    )
    assert_inert(output)


def test_an_error_is_shown_as_python_does_but_for_what_a_terminal_acts_on(capsys):
    try:
        raise OSError(f"some files:\n  a{ESCAPES}.png\n  b.png")
    except OSError as error:
        show_error(type(error), error, error.__traceback__)
        whole = "".join(traceback.format_exception(error))
    shown = capsys.readouterr().err
    assert_inert(shown.encode())
    assert shown.splitlines()[:-2] == whole.splitlines()[:-2]
    assert shown.splitlines()[-2:] == ["a ]0;OWNED [2J [31mred 31m.png", "  b.png"]
