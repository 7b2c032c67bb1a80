"""Writing whole or not at all, in folders that others write to as well."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from gmn_opt.weights import WeightSet, atomic, save
from gmn_opt.weights.atomic import write_atomically

TEMPORARY = re.compile(r"\.gmn-opt-[0-9a-f]{32}\.partial")


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_failing_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "new.txt", write)
    assert _names(tmp_path) == []


def test_names_are_random_in_the_same_folder_and_new(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(path: Path) -> None:
        assert path.stat().st_size == 0
        assert path.parent == tmp_path
        seen.append(path)
        path.write_text("x")

    for _ in range(5):
        write_atomically(tmp_path / "a.txt", write)
    assert len(set(seen)) == 5
    assert all(TEMPORARY.fullmatch(p.name) for p in seen)
    assert _names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("trap", ["link", "fifo", "folder", "hard link"])
def test_traps_under_the_former_name_are_left_alone(tmp_path: Path, trap: str) -> None:
    """``.NAME.partial`` was the temporary name once, and followed wherever it led."""
    victim, waiting = tmp_path / "victim", tmp_path / ".w.safetensors.partial"
    victim.write_text("precious")
    if trap == "link":
        waiting.symlink_to(victim)
    elif trap == "fifo":
        os.mkfifo(waiting)
    elif trap == "folder":
        waiting.mkdir()
    else:
        os.link(victim, waiting)
    save(tmp_path / "w.safetensors", WeightSet("w", "thing", {}, {"a": torch.ones(2)}))
    assert victim.read_text() == "precious"
    assert _names(tmp_path) == [".w.safetensors.partial", "victim", "w.safetensors"]


@pytest.mark.parametrize("trap", ["link", "dangling", "fifo", "file"])
def test_traps_under_a_guessed_name_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    """Even who knew the random number would gain nothing."""
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    victim, waiting = tmp_path / "victim", tmp_path / f".gmn-opt-{'0' * 32}.partial"
    victim.write_text("precious")
    if trap == "link":
        waiting.symlink_to(victim)
    elif trap == "dangling":
        waiting.symlink_to(tmp_path / "new")
    elif trap == "fifo":
        os.mkfifo(waiting)
    else:
        waiting.write_text("")  # as if its writer had just begun
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a.txt", lambda p: p.write_text("x"))
    assert victim.read_text() == "precious"
    assert _names(tmp_path) == [waiting.name, "victim"]


def test_a_file_that_was_exchanged_meanwhile_is_not_put_in_place(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")

    def write(path: Path) -> None:
        path.unlink()
        path.symlink_to(victim)

    with pytest.raises(OSError, match="Someone put another file"):
        write_atomically(tmp_path / "a.txt", write)
    assert victim.read_text() == "precious"
    assert _names(tmp_path) == ["victim"]


def test_a_link_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("precious")
    target.symlink_to(victim)
    write_atomically(target, lambda p: p.write_text("x"))
    assert (victim.read_text(), target.read_text()) == ("precious", "x")
    assert not target.is_symlink()


def test_pipes_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="ordinary file|directory"):
            write_atomically(tmp_path / name, lambda p: p.write_text("x"))
    with pytest.raises(OSError, match="ordinary file"):
        write_atomically(Path("/dev/null"), lambda p: p.write_text("x"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert _names(tmp_path) == ["folder", "pipe"]


_KILLED = """
import sys, time
from pathlib import Path
from gmn_opt.weights.atomic import write_atomically
def write(path):
    path.write_bytes(b"x" * 1_000_000)
    print("ready", flush=True)
    time.sleep(60)
write_atomically(Path(sys.argv[1]), write)
"""


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "a.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        write_atomically(tmp_path / "b.txt", lambda p: p.write_text("x"))
        living = [n for n in _names(tmp_path) if TEMPORARY.fullmatch(n)]
        assert len(living) == 1
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert living[0] in _names(tmp_path)
    write_atomically(tmp_path / "b.txt", lambda p: p.write_text("y"))
    assert _names(tmp_path) == ["b.txt"]


def test_many_writers_of_one_path(tmp_path: Path) -> None:
    """Each write is whole, and none takes away another's."""
    target, errors = tmp_path / "a.txt", []

    def many(letter: str) -> None:
        try:
            for _ in range(20):
                write_atomically(target, lambda p: p.write_text(letter * 5000))
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=many, args=(c,)) for c in "abc"]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        if target.exists():
            text = target.read_text()
            assert len(text) == 5000
            assert len(set(text)) == 1
        time.sleep(0.002)
    assert not errors
    assert _names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(atomic.fcntl is None, reason="needs file locks")
def test_a_writer_waits_for_one_that_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that holds the new file for a moment must not leave its writer without a lock."""
    lock = atomic.fcntl.flock
    exclusive = atomic.fcntl.LOCK_EX | atomic.fcntl.LOCK_NB
    held: list[int] = []
    gone = threading.Event()

    def let_go() -> None:
        os.close(held[0])
        gone.set()

    def looked_at(handle: int, how: int) -> None:
        if not held:
            (path,) = tmp_path.iterdir()
            held.append(os.open(path, os.O_RDONLY))
            lock(held[0], exclusive)
            threading.Timer(0.2, let_go).start()
        lock(handle, how)

    def write(path: Path) -> None:
        path.write_text("x")
        assert gone.wait(5)
        other = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            lock(other, exclusive)
        os.close(other)

    monkeypatch.setattr(atomic.fcntl, "flock", looked_at)
    write_atomically(tmp_path / "a.txt", write)
    assert _names(tmp_path) == ["a.txt"]


def test_long_names(tmp_path: Path) -> None:
    name = "é" * 120 + ".txt"  # 244 bytes, where 255 is the most
    write_atomically(tmp_path / name, lambda p: p.write_text("x"))
    assert _names(tmp_path) == [name]
