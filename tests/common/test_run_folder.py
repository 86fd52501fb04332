"""The folder of a run: names, the lock, the list of its files."""

import os
import signal
import subprocess
import sys
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folder_parts import A_RUN, again

from ants_lightning.common import run_folder
from ants_lightning.common.run_folder import RunFolder, file_name


@pytest.mark.parametrize(
    "name", ["street", "near set/2", "50%", "naïve 犬", "a\0b", ".hidden", "\x1b[31mred", "[red]x[/red]"]
)
def test_ordinary_names_are_quoted_as_in_a_url(name):
    assert file_name(name) == quote(name, safe="") and unquote(file_name(name)) == name


ODD = [
    "",
    ".",
    "..",
    "...",
    "CON",
    "con",
    "nul.txt",
    "COM7",
    "Lpt0.tar.gz",
    "end.",
    "n" * 300,
    "n" * 301,
    "😀" * 100,
    "\ud83d",
]


NAMES = st.text(st.characters(exclude_categories=[]), max_size=200) | st.sampled_from(ODD)


@given(st.lists(NAMES, min_size=2, max_size=8, unique=True))
def test_any_name_is_a_file_name_of_its_own(names):
    found = [file_name(name) for name in names]
    assert len(set(found)) == len(names)
    for name in found:
        assert (
            0 < len(name) <= 120
            and name.isascii()
            and name not in (".", "..")
            and not set(name) & set('/\\:*?"<>|\0')
        )
        assert (
            name.split(".")[0].upper() not in ("CON", "PRN", "AUX", "NUL", "COM7", "LPT0") and name[-1] != "."
        )


def test_odd_names_can_be_made(tmp_path):
    for name in ODD:
        (tmp_path / file_name(name)).mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(file_name, ODD))


def test_what_a_run_wrote_is_replaced_by_the_next_and_nothing_else(folder):
    folder.write("ours.txt", b"one")
    folder.write("edited.txt", b"one")
    for name in ("edited.txt", "theirs.txt"):
        (folder.path / name).write_bytes(b"precious")
    (folder.path / "a folder").mkdir()
    (folder.path / "link").symlink_to(folder.path / "ours.txt")
    (folder.path / "dangling").symlink_to("nowhere")
    folder.release(A_RUN)
    folder.claim(A_RUN)
    folder.write("ours.txt", b"two")
    folder.write("new/deep.txt", b"two")
    for name in ("edited.txt", "theirs.txt", "a folder", "link", "dangling"):
        assert not folder.is_ours(name)
        with pytest.raises(FileExistsError, match=f"{name}: no run wrote it, or it was edited since"):
            folder.write(name, b"two")
        with pytest.raises(FileExistsError):
            folder.begin(name)
    folder.remove("theirs.txt", "edited.txt", "new/deep.txt", "not there")
    assert (folder.path / "ours.txt").read_bytes() == b"two" and not (folder.path / "new/deep.txt").exists()
    assert (
        (folder.path / "theirs.txt").read_bytes() == (folder.path / "edited.txt").read_bytes() == b"precious"
    )
    assert (
        os.readlink(folder.path / "link") == str(folder.path / "ours.txt")
        and os.readlink(folder.path / "dangling") == "nowhere"
    )


def test_what_is_needed_and_not_ours_is_an_error_that_frees_the_folder(folder):
    (folder.path / "results.json").write_text("precious")
    with pytest.raises(ValueError, match=r"run holds results\.json, which no run wrote, .*default_root_dir"):
        folder.claim("another", "absent.txt", "results.json")
    folder.release(A_RUN)
    again(folder)


def test_a_folder_is_free_when_all_have_released_it(folder):
    folder.claim("another")
    folder.claim("another")
    for who in ("another", "a stranger", "another"):
        folder.release(who)
        with pytest.raises(ValueError, match="is under way in"):
            RunFolder(folder.path).claim("the next")
    folder.release(A_RUN)
    RunFolder(folder.path).claim("the next")


def test_another_process_is_refused_and_one_that_was_killed_leaves_no_lock(tmp_path):
    script = (
        "import sys, time; from ants_lightning.common.run_folder import RunFolder; folder = "
        "RunFolder(sys.argv[1]); folder.claim('x'); folder.write('done.txt', b'1'); "
        "folder.begin('part.txt'); (folder.path / 'part.txt').write_text('1'); print('claimed', "
        "flush=True); time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "claimed\n"
        folder = RunFolder(tmp_path)
        with pytest.raises(ValueError) as error:
            folder.claim(A_RUN)
        assert (
            f"another run (process {other.pid} on {os.uname().nodename}) is under way in {tmp_path}: "
            in str(error.value)
        )
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    folder.claim(A_RUN)
    assert folder.is_ours("done.txt") and folder.is_ours("part.txt")  # the latter at whatever length
    folder.release(A_RUN)


def test_a_killed_run_leaves_nothing_that_is_nobodys(folder, monkeypatch):
    """Killed after the list was written and before the file was, or after both."""
    folder.write("a.txt", b"one")
    for content in (b"two", b"three"):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(run_folder, "write_atomically", kill_after(1, run_folder.write_atomically))
            folder.write("a.txt", content)
        assert (folder.path / "a.txt").read_bytes() == b"one" and folder.is_ours("a.txt")
    assert again(folder).is_ours("a.txt")


def kill_after(n, write):
    calls = []

    def dying(path, content):
        calls.append(path)
        if len(calls) > n:
            raise ZeroDivisionError
        write(path, content)

    return dying
