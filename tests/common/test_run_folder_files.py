"""Files and folders of a run: written, replaced, and where that fails."""

import json
import os
import stat

import lightning as L
import pytest
from run_folder_parts import A_RUN, again

from ants_lightning.common import run_folder
from ants_lightning.common.files import swap_folder
from ants_lightning.common.run_folder import MARKER, RunFolder


def test_files_that_grow(folder, tmp_path):
    folder.begin("rows.csv", "never.csv")
    with pytest.raises(FileExistsError, match=r"rows\.csv in .* written by two at once"):
        folder.begin("rows.csv")
    (folder.path / "rows.csv").write_text("a\n")
    assert folder.is_ours("rows.csv") and again(folder).is_ours("rows.csv")
    folder.claim(A_RUN)
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
    folder.claim(A_RUN)
    with pytest.raises(FileExistsError):
        folder.put(new, "results.json")
    assert new.read_bytes() == b"newer"


def test_a_folder_that_we_made_goes_when_it_is_empty(folder):
    (folder.path / "theirs").mkdir()
    for name in ("ours", "theirs", "shared"):
        folder.make_folder(name)
    (folder.path / "shared" / "note").touch()
    folder.release(A_RUN)
    folder.claim(A_RUN)
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
            RunFolder(tmp_path).claim(A_RUN)
    assert (tmp_path / MARKER).read_text() == content


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"the folder of the run, .*file.*, cannot be written: "):
            RunFolder(path).claim(A_RUN)
    with pytest.raises(OSError, match="name too long"):
        RunFolder(tmp_path / ("n" * 300)).claim(A_RUN)
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
            RunFolder(tmp_path).claim(A_RUN)
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
    folder.claim(A_RUN, "results.json")
    folder.release(A_RUN)
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
    folder.release(A_RUN)
    assert json.loads((folder.path / MARKER).read_text())["run"] is None
