"""Worker processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

_PARENT = """
import multiprocessing, sys, time
from gmn_opt.cli import workers

def child(path):
    import os, threading
    open(path, "w").write(str(os.getpid()))
    threading.Thread(target=workers.end_with_parent, daemon=True).start()
    time.sleep(60)

if __name__ == "__main__":
    p = multiprocessing.get_context("fork").Process(target=child, args=(sys.argv[1],))
    p.start()
    time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states in /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    note, script = tmp_path / "pid", tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(note)])
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    pid = int(note.read_text())
    assert _alive(pid)
    parent.kill()
    parent.wait()
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(pid)
