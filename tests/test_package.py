from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gmn_opt

ROOT = Path(__file__).parents[1]


def loaded_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(run.stdout.split())


def test_version_is_stated_once_and_once_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert gmn_opt.__version__ == project["version"]


def test_import_is_light() -> None:
    assert not {"torch", "torch_geometric", "matplotlib", "rich"} & loaded_after("import gmn_opt")


@pytest.mark.slow
def test_root_names_leave_torch_geometric_alone() -> None:
    names = ", ".join(gmn_opt.__all__)
    assert "torch_geometric" not in loaded_after(f"from gmn_opt import {names}")


@pytest.mark.parametrize("name", gmn_opt.__all__)
def test_root_names_resolve(name: str) -> None:
    assert name in dir(gmn_opt)
    value = getattr(gmn_opt, name)
    assert value is getattr(gmn_opt, name)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'gmn_opt' has no attribute 'nonsense'"):
        _ = gmn_opt.nonsense


def test_package_is_typed() -> None:
    assert (Path(gmn_opt.__file__).parent / "py.typed").is_file()
