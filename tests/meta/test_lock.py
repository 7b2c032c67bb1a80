"""One run per folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gmn_opt.meta.lock import NAME, FolderGoneError, FolderLock


def test_the_second_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run") as lock:
        lock.check()
        with pytest.raises(ValueError, match="Another run is writing to .*run.*another folder"):
            FolderLock(tmp_path / "run")
        FolderLock(tmp_path / "other").release()
    FolderLock(tmp_path / "run").release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gmn_opt.meta.lock import FolderLock; "
        "lock = FolderLock(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(ValueError, match="Another run"):
            FolderLock(tmp_path)
        child.kill()
        child.wait()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("how", ["removed", "replaced", "lock removed"])
def test_a_vanished_folder_is_noticed(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    with FolderLock(folder) as lock:
        if how == "lock removed":
            (folder / NAME).unlink()
        else:
            shutil.rmtree(folder)
        if how == "replaced":
            folder.mkdir()
            (folder / NAME).write_text("")
        with pytest.raises(FolderGoneError, match="has vanished, or was replaced"):
            lock.check()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path)
    assert not (tmp_path / "victim").exists()
