"""The folder of a run: names, the lock, the list of what runs wrote, and what is never touched."""

import json
import os
import signal
import stat
import subprocess
import sys
from urllib.parse import quote, unquote

import lightning as L
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ants_lightning.common import run_folder
from ants_lightning.common.files import swap_folder
from ants_lightning.common.run_folder import MARKER, RunFolder, file_name


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim("a run")
    yield folder
    folder.release("a run")


def again(folder):
    """The folder as the next run sees it."""
    folder.release("a run")
    later = RunFolder(folder.path)
    later.claim("a run")
    later.release("a run")
    return later


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
    folder.release("a run")
    folder.claim("a run")
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
    folder.release("a run")
    again(folder)


def test_a_folder_is_free_when_all_have_released_it(folder):
    folder.claim("another")
    folder.claim("another")
    for who in ("another", "a stranger", "another"):
        folder.release(who)
        with pytest.raises(ValueError, match="is under way in"):
            RunFolder(folder.path).claim("the next")
    folder.release("a run")
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
            folder.claim("a run")
        assert (
            f"another run (process {other.pid} on {os.uname().nodename}) is under way in {tmp_path}: "
            in str(error.value)
        )
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    folder.claim("a run")
    assert folder.is_ours("done.txt") and folder.is_ours("part.txt")  # the latter at whatever length
    folder.release("a run")


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


def test_files_that_grow(folder, tmp_path):
    folder.begin("rows.csv", "never.csv")
    with pytest.raises(FileExistsError, match=r"rows\.csv in .* written by two at once"):
        folder.begin("rows.csv")
    (folder.path / "rows.csv").write_text("a\n")
    assert folder.is_ours("rows.csv") and again(folder).is_ours("rows.csv")
    folder.claim("a run")
    folder.finish("rows.csv", "never.csv")
    assert folder.is_ours("rows.csv")
    (folder.path / "rows.csv").write_text("a\nmine\n")
    (folder.path / "never.csv").write_text("precious")
    assert not folder.is_ours("rows.csv") and not folder.is_ours("never.csv")


def test_put_and_move(folder):
    folder.write("results.json", b"old")
    new = folder.path / "new"
    new.write_bytes(b"new")
    folder.move("results.json", "results.1.json")
    folder.put(new, "results.json")
    assert (folder.path / "results.json").read_bytes() == b"new" and not new.exists()
    assert (folder.path / "results.1.json").read_bytes() == b"old"
    later = again(folder)
    assert (
        later.is_ours("results.1.json")
        and later.is_ours("results.json")
        and not later.is_free("results.json")
    )
    new.write_bytes(b"newer")
    (folder.path / "results.json").write_bytes(b"precious")
    folder.claim("a run")
    with pytest.raises(FileExistsError):
        folder.put(new, "results.json")
    assert new.read_bytes() == b"newer"


def test_a_folder_that_we_made_goes_when_it_is_empty(folder):
    (folder.path / "theirs").mkdir()
    for name in ("ours", "theirs", "shared"):
        folder.make_folder(name)
    (folder.path / "shared" / "note").touch()
    folder.release("a run")
    folder.claim("a run")
    for name in ("ours", "theirs", "shared"):
        folder.remove_folder(name)
    assert sorted(path.name for path in folder.path.iterdir() if path.is_dir()) == ["shared", "theirs"]


FILES = ("a.txt", "b.txt", "c.txt")


def test_a_folder_is_replaced_as_a_whole_and_other_files_go_over(folder, tmp_path):
    folder.write_folder("spaces/x", {"a.txt": b"1", "b.txt": b"1"}, FILES)
    path = folder.path / "spaces" / "x"
    (path / "note.md").write_text("mine")
    (path / "deep").mkdir()
    (path / "deep" / "note").write_text("mine")
    folder.write_folder("spaces/x", {"a.txt": b"2", "c.txt": b"2"}, FILES)
    found = {file.name: file.read_text() for file in path.iterdir() if file.is_file()}
    assert found == {"a.txt": "2", "c.txt": "2", "note.md": "mine"}
    assert (path / "deep" / "note").read_text() == "mine" and os.listdir(path.parent) == ["x"]
    (path / "c.txt").write_text("edited")
    with pytest.raises(FileExistsError, match=r"x/c\.txt: no run wrote it, or it was edited since"):
        folder.write_folder("spaces/x", {"a.txt": b"3"}, FILES)
    assert (path / "a.txt").read_text() == "2" and (path / "c.txt").read_text() == "edited"


def test_a_folder_stays_whole_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "x"
    swap_folder(path, {"a.txt": b"1", "b.txt": b"1"}, FILES)
    for n in (1, 2):  # the renames: old away, new in
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
            patch.setattr("pathlib.Path.rename", failing_at(n))
            swap_folder(path, {"a.txt": b"2"}, FILES)
        assert {file.name: file.read_text() for file in path.iterdir()} == {"a.txt": "1", "b.txt": "1"}
        assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(NotADirectoryError):
        swap_folder(path / "a.txt", {}, FILES)
    (tmp_path / "link").symlink_to(path)
    swap_folder(tmp_path / "link", {"c.txt": b"3"}, FILES)
    assert (tmp_path / "link").is_symlink() and os.listdir(path) == ["c.txt"]


def failing_at(n):
    calls, rename = [], os.rename

    def fail(self, target):
        calls.append(target)
        if len(calls) == n:
            raise OSError("no")
        rename(self, target)

    return fail


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 99, "files": {}}', '{"format": 1, "files": {"a": "b"}}', "\x00"]
)
def test_a_list_that_is_none_is_an_error(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    for _ in range(2):  # the lock is free again
        with pytest.raises(ValueError, match="is not the list of what this version's runs wrote there"):
            RunFolder(tmp_path).claim("a run")
    assert (tmp_path / MARKER).read_text() == content


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"the folder of the run, .*file.*, cannot be written: "):
            RunFolder(path).claim("a run")
    with pytest.raises(OSError, match="name too long"):
        RunFolder(tmp_path / ("n" * 300)).claim("a run")
    with pytest.raises(ValueError, match="a local folder, not to 's3://bucket/run'"):
        RunFolder("s3://bucket/run")


def test_a_folder_that_cannot_be_read_or_written_for_want_of_rights(tmp_path):
    """In a process without root's rights, where this one has them."""
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                for above in tmp_path.parents:
                    if str(above).startswith("/tmp/"):
                        above.chmod(above.stat().st_mode | 0o555)
                tmp_path.chmod(0o555)
                os.setuid(65534)
            RunFolder(tmp_path).claim("a run")
        except OSError as error:
            os._exit(
                0
                if f"{tmp_path}, cannot be written: " in str(error) and "Permission denied" in str(error)
                else 2
            )
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tmp_path.chmod(0o755)


def test_writing_without_a_claim_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="is not claimed"):
        RunFolder(tmp_path).write("a.txt", b"")
    assert not os.listdir(tmp_path)


def test_other_ranks_touch_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.is_first_rank = False
    folder.claim("a run", "results.json")
    folder.release("a run")
    assert not folder.path.exists()


def test_home_is_written_out_and_a_trainer_has_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder("~/run").path == tmp_path / "run"
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir="~/run")
    one = run_folder.run_folder(trainer)
    assert one.path == tmp_path / "run" and one is run_folder.run_folder(trainer) is run_folder.run_folder(
        trainer, one.path / "."
    )
    assert (
        run_folder.run_folder(L.Trainer(accelerator="cpu", logger=False, default_root_dir="~/run")) is not one
    )


def test_a_folder_that_is_not_local_is_refused_before_the_run():
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir="memory://run")
    with pytest.raises(ValueError, match="a local folder, not to 'memory://run'"):
        run_folder.run_folder(trainer)


def test_the_list_can_be_read(folder):
    folder.write("a.txt", b"1")
    content = json.loads((folder.path / MARKER).read_text())
    assert content["run"]["pid"] == os.getpid() and list(content["files"]) == ["a.txt"]
    folder.release("a run")
    assert json.loads((folder.path / MARKER).read_text())["run"] is None
