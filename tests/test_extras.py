"""What core alone does, and what is said where an extra is missing; in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gmn_opt.extras import PACKAGES, MissingExtraError, lazy, needs

ROOT = Path(__file__).parents[1]
#: torch itself requires networkx, so that nobody is without it.
BLOCKED = sorted(PACKAGES.keys() - {"networkx"})


def run_without(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter where no extra can be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", block + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_core_trains_a_network_and_says_what_else_needs() -> None:
    done = run_without(
        """
import torch
from torch import nn
import gmn_opt, gmn_opt.align, gmn_opt.data, gmn_opt.generate, gmn_opt.inr, gmn_opt.meta
from gmn_opt.extras import MissingExtraError

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
opt = gmn_opt.GMNOptimizer(model.parameters(), total_steps=30)
x = torch.randn(32, 4)
y = x.sum(1, keepdim=True)
losses = []
for _ in range(30):
    loss = nn.functional.mse_loss(model(x), y)
    opt.zero_grad(); loss.backward(); opt.step()
    losses.append(loss.item())
assert losses[-1] < 0.8 * losses[0], losses
assert len(opt.graphs) == 1 and opt.graphs[0].spaces

graph = gmn_opt.trace(model, x)
state = model.state_dict()
data = gmn_opt.data.load_bundled("mnist")
siren = gmn_opt.inr.SirenConfig(2, 1, (4,)).build()
from gmn_opt.inr.edits import edited
from gmn_opt.inr.photos import read_photo
from gmn_opt.generate.digits import write_png
from pathlib import Path
for extra, use in {
    "align": lambda: gmn_opt.align(graph, state, state),
    "graph": lambda: graph.to_pyg(state),
    "graph ": lambda: graph.draw("never.png"),
    "inr": lambda: edited(torch.zeros(4, 4, 1), "dilate"),
    "inr ": lambda: read_photo(Path("README.md")),
    "inr  ": lambda: write_png(torch.zeros(2, 2, dtype=torch.uint8), Path("never.png")),
    "predict": lambda: __import__("gmn_opt.predict.trees").predict.TreePredictor(
        [], torch.zeros(0), type("O", (), {"name": "mse"}), "trees", None, 0),
    "graph  ": lambda: __import__("gmn_opt.metanet.reference.edge_list"),
}.items():
    try:
        use()
    except MissingExtraError as error:
        assert str(error).endswith(f"pip install 'gmn-opt[{extra.strip()}]'"), error
        assert "\\n" not in str(error)
        print(extra.strip())
""".replace("gmn_opt.align, ", "")
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["align", *["graph"] * 3, *["inr"] * 3, "predict"]


def test_the_command_ends_with_one_line() -> None:
    done = run_without(
        "from gmn_opt.cli import app\n"
        "app(['graph', 'gmn_opt.cli.demo.models:build_mlp', '--input', '1x1x28x28', '--draw', "
        "'never.png', '--no-verify'])"
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "error: This needs matplotlib, which is not installed; pip install 'gmn-opt[graph]'"
    ]


def test_the_demo_says_it_before_it_trains() -> None:
    done = run_without("from gmn_opt.cli import app; app(['demo', '--quick', '--out', 'never'])")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'gmn-opt[demo]'")
    assert not (ROOT / "never").exists()


def test_other_import_errors_stay_as_they_are() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense_of_a_user") as found, needs("inr"):
        import nonsense_of_a_user  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(found.value, MissingExtraError)


def test_lazy_modules() -> None:
    module = lazy("cv2", "inr")
    import cv2

    assert module.dilate is cv2.dilate
    with pytest.raises(AttributeError):
        _ = module.no_such_thing


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    used = {"align", "demo", "graph", "hub", "inr", "predict"}
    assert extras["all"] == [f"gmn-opt[{','.join(sorted(used))}]"]
    listed = {d.split(">=")[0] for name in used for d in extras[name]}
    assert listed == set(PACKAGES.values())
    core = {d.split(">=")[0] for d in project["dependencies"]}
    assert not core & listed
