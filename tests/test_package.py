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


def test_version_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    path = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{gmn_opt.__version__}"' in path.read_text("utf-8")
    assert f"## [{gmn_opt.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_import_is_light() -> None:
    assert not {"torch", "torch_geometric", "matplotlib", "rich"} & loaded_after("import gmn_opt")


@pytest.mark.slow
def test_root_names_leave_torch_geometric_alone() -> None:
    names = ", ".join(gmn_opt.__all__)
    assert "torch_geometric" not in loaded_after(f"from gmn_opt import {names}")


@pytest.mark.parametrize(
    "statement", ["from gmn_opt import GMNOptimizer, trace", "import gmn_opt.cli.app"]
)
def test_import_leaves_alone_what_is_slow(statement: str) -> None:
    slow = {"sympy", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "networkx"}
    slow |= {"cv2", "matplotlib", "PIL", "scipy", "sklearn", "torch_geometric", "huggingface_hub"}
    found = slow & loaded_after(statement)
    assert not found


def test_the_command_needs_no_torch_to_say_what_it_can() -> None:
    run = "import gmn_opt.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "numpy"} & loaded_after(run)


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
