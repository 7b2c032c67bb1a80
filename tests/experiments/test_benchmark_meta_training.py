"""The benchmark runs, and its slow loops compute what the fast ways compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from experiments.benchmarks import meta_training as benchmark
from gmn_opt.meta import InnerState, PersistentES, SmallRule, TruncatedBackprop, Window, build_rule
from gmn_opt.meta.rules import flat_vector
from gmn_opt.optim import RuleConfig


def window(state: InnerState, memory: dict[str, torch.Tensor]) -> Window:
    generator = torch.Generator().manual_seed(3)
    return Window(benchmark.reference_task(), state, 4, generator, 50, memory=memory)


def disturb(rule: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.05 * torch.randn_like(p))


def test_the_loop_of_backprop_is_the_same_estimator() -> None:
    rule = build_rule(RuleConfig(hidden=8))
    disturb(rule)
    estimator = TruncatedBackprop()
    task = benchmark.reference_task()
    state, memory = estimator.start(rule, task, 3, torch.Generator().manual_seed(1))
    fast = estimator.estimate(rule, window(state, memory))
    slow, after = benchmark.loop_backprop(rule, window(state, memory))
    a, b = flat_vector(fast.gradient), torch.cat([g.flatten() for g in slow])
    assert float((a - b).norm()) < 1e-3 * float(a.norm())
    assert torch.allclose(fast.state.theta, after.theta, atol=1e-4)


def test_the_loop_of_pes_is_the_same_estimator() -> None:
    rule = SmallRule()
    disturb(rule)
    estimator = PersistentES(sigma=0.05)
    task = benchmark.reference_task()
    state, memory = estimator.start(rule, task, 6, torch.Generator().manual_seed(1))
    fast = estimator.estimate(rule, window(state, memory))
    slow, after, kept = benchmark.loop_pes(rule, window(state, memory), 0.05)
    a = flat_vector(fast.gradient)
    assert float((a - slow).norm()) < 1e-2 * float(a.norm())
    assert torch.allclose(fast.state.theta, after.theta, atol=1e-4)
    assert torch.equal(fast.memory["accumulated"], kept["accumulated"])


def test_the_benchmark_writes_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [benchmark.Case("small_pes", 1, 2), benchmark.Case("gmn_backprop_loop", 1, 2)]
    monkeypatch.setitem(benchmark.PRESETS, "smoke", (cases, 0.01))
    done = CliRunner().invoke(benchmark.app, ["--preset", "smoke", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert [c["networks"] for c in result["cases"]] == [2, 1]
    assert all(c["inner_steps_per_cpu_second"] > 0 for c in result["cases"])
    assert all(0.05 < c["peak_gib"] < 8 for c in result["cases"])
    assert result["cases"][0]["meta_parameters"] <= 500
    assert result["environment"]["torch"] == torch.__version__
    assert "| small_pes | 1 | 2 |" in (tmp_path / "README.md").read_text()


def test_what_the_peer_does_stands_in_the_record() -> None:
    case = {"way": "PES", "meta_parameters": 110, "inner_steps_per_cpu_second": 5302.4}
    peer = [case | {"fastest": 5499.0, "peak_gib": 0.35, "load": 1.0, "jax": "0.4.30"}]
    about = {"processor": "one", "torch": torch.__version__}
    shown = benchmark.page({"environment": about, "command": "", "cases": [], "peer": peer})
    assert "JAX 0.4.30" in shown
    assert "| PES | 110 | 5302 |" in shown


def test_a_missing_record_of_the_peer_is_refused(tmp_path: Path) -> None:
    missing = ["--preset", "smoke", "--peer", str(tmp_path / "none.json")]
    done = CliRunner().invoke(benchmark.app, missing)
    assert done.exit_code == 2
    assert "none.json" in done.output
    (tmp_path / "odd.json").write_text('{"way": "PES"}')
    done = CliRunner().invoke(benchmark.app, [*missing[:3], str(tmp_path / "odd.json")])
    assert done.exit_code == 2
    assert "is not what meta_training_peer.py writes" in done.output.replace("\n", " ")


def test_an_unknown_preset_is_refused() -> None:
    done = CliRunner().invoke(benchmark.app, ["--preset", "huge"])
    assert done.exit_code == 2
    assert "Unknown preset 'huge'; choose one of smoke, cpu" in done.output
