"""Building, finding and refusing the native kernel."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmn_opt.cli.environment import collect
from gmn_opt.metanet import native
from gmn_opt.metanet.native import build, compiling, library

HAS_COMPILER = any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources, with nothing built, that the package takes for its own."""
    for name in compiling.SOURCES:
        shutil.copy(compiling.HERE / name, tmp_path)
    monkeypatch.setattr(compiling, "HERE", tmp_path)
    library._found.cache_clear()
    yield tmp_path
    library._found.cache_clear()


def test_nothing_built(folder: Path) -> None:
    assert native.kernel() is None
    assert "not built" in native.status()


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    library._found.cache_clear()
    monkeypatch.setenv("GMN_OPT_NATIVE", "0")
    assert native.kernel() is None
    assert "GMN_OPT_NATIVE=0" in native.status()
    library._found.cache_clear()


def test_what_cannot_be_loaded_is_passed_over(folder: Path) -> None:
    compiling.library_path("DEFAULT").write_bytes(b"no library")
    assert native.kernel() is None
    assert native.status()


def test_without_a_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(compiling.CompilerError, match=r"no C\+\+ compiler"):
        compiling.build()
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(compiling.CompilerError, match="Could not run no-such-compiler"):
        compiling.build()
    assert sorted(p.name for p in folder.iterdir()) == sorted(compiling.SOURCES)


@pytest.mark.parametrize(
    ("cxx", "message"),
    [
        ("/bin/true", "reported success but made no library"),
        ("/bin/false", "failed with exit status"),
        ("g++ 'x", "is no command"),
        ("/dev/null", "Could not run"),
        ("/bin", "Could not run"),
        ("/bin/cat --nonsense", "failed with exit status"),
        ("/bin/echo", "reported success but made no library"),
    ],
)
def test_odd_compilers_leave_pure_python_with_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cxx: str, message: str
) -> None:
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(compiling.CompilerError, match=message):
        compiling.build()
    with pytest.raises(SystemExit, match=message):
        build.main()
    assert native.kernel() is None
    assert message in native.status()
    assert message in collect()["native kernel"]  # `gmn-opt env`
    left = {p.name for p in folder.iterdir()} - {compiling.REASON}
    assert left == set(compiling.SOURCES)


@pytest.mark.parametrize("cxx", ["/bin/true", "g++ 'x", "no-such-compiler"])
def test_the_wheel_is_made_without_a_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cxx: str
) -> None:
    """The build hook, without the build backend, which is not part of the test environment."""
    said: list[str] = []
    backend = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    monkeypatch.setattr(backend, "BuildHookInterface", object, raising=False)
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    source = Path(__file__).parents[2] / "hatch_build.py"
    spec = importlib.util.spec_from_file_location("hatch_build", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_compiling", lambda: compiling)
    hook = module.NativeKernelHook()
    hook.app = types.SimpleNamespace(display_warning=said.append)
    hook.root = str(folder)
    monkeypatch.setenv("CXX", cxx)
    data: dict[str, object] = {"artifacts": [], "pure_python": True}
    hook.initialize("standard", data)
    assert data == {"artifacts": [compiling.REASON], "pure_python": True}
    assert "the wheel is pure Python" in said[0]


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_errors_of_the_compiler_are_shown(folder: Path) -> None:
    (folder / compiling.SOURCES[0]).write_text("#error broken on purpose\n")
    compiling.library_path("DEFAULT").write_bytes(b"old")
    with pytest.raises(compiling.CompilerError, match="broken on purpose"):
        compiling.build()
    assert compiling.library_path("DEFAULT").read_bytes() == b"old"


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_build_load_and_refuse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "variants", lambda: {"DEFAULT": ("-O0",)})
    assert [p.name for p in compiling.build()] == [compiling.library_path("DEFAULT").name]
    assert native.kernel() is not None
    assert native.status() == "DEFAULT"
    source = folder / compiling.SOURCES[0]
    source.write_text(source.read_text() + "\n// changed\n")
    library._found.cache_clear()
    assert native.kernel() is None
    assert "other sources" in native.status()
