"""Meta-training speed of Google's learned_optimization (JAX), for comparison on one machine.

Runs in an environment of its own, as the package wants old versions of much else:

    python3 -m venv .venv-jax
    .venv-jax/bin/pip install learned_optimization==0.0.1 jax==0.4.30 jaxlib==0.4.30 \
        flax==0.8.5 dm-haiku==0.0.12 optax==0.2.3 chex==0.1.86 'numpy<2' typer
    .venv-jax/bin/python experiments/benchmarks/meta_training_peer.py --out runs/jax.json
    python -m experiments.benchmarks.meta_training --peer runs/jax.json

The task is that of ``experiments.benchmarks.meta_training``: 16 MLPs 64-32-10, batch 64, windows of
50 steps, data in the shape of 8x8 digits. Estimators are called as the package's users do, with its
default of ten steps per compiled piece; batches come through its own iterators; compilation is not
counted. Inner steps (tasks times steps, both members of an antithetic pair) per second of processor
time, on one thread. The installed package stays as it is: names that newer versions of JAX lack are
put back, and TensorFlow, which it needs for data sets alone, is left out.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import MagicMock

import typer

TASKS, WINDOW, BATCH, IMAGES = 16, 50, 64, 1797
#: Estimator and hidden width of the rule; 32 and 4 make 1762 and 110 meta-parameters.
CASES = [("truncated backprop", 32), ("truncated backprop", 4), ("PES", 32), ("PES", 4)]


def prepare() -> None:
    """One thread, and stand-ins for what the package imports and does not need here."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import flax.training.checkpoints  # noqa: F401  looks for TensorFlow: before that is replaced

    names = ("tensorflow", "tensorflow.compat", "tensorflow.compat.v2", "tensorflow_datasets")
    for name in (*names, "flax.metrics.tensorboard"):
        sys.modules[name] = MagicMock()
    import jax
    import jax.core

    for name in ("map", "leaves", "flatten", "unflatten", "structure"):
        setattr(jax, f"tree_{name}", getattr(jax.tree_util, f"tree_{name}"))
    jax.tree_multimap, jax.ShapedArray = jax.tree_util.tree_map, jax.core.ShapedArray


def batches(seed: int) -> Iterator[dict[str, Any]]:
    """Random images and labels, in epochs."""
    import numpy as np

    random = np.random.default_rng(seed)
    images = random.random((IMAGES, 8, 8, 1), dtype=np.float32)
    labels = random.integers(0, 10, IMAGES).astype(np.int32)
    while True:
        for chosen in np.array_split(random.permutation(IMAGES), IMAGES // BATCH):
            yield {"image": images[chosen[:BATCH]], "label": labels[chosen[:BATCH]]}


def measure(way: str, hidden: int, seconds: float) -> dict[str, Any]:
    """Windows of one estimator for so many seconds."""
    prepare()
    import jax
    import jax.numpy as jnp
    from learned_optimization.learned_optimizers.mlp_lopt import MLPLOpt
    from learned_optimization.outer_trainers import gradient_learner
    from learned_optimization.outer_trainers.truncated_grad import TruncatedGrad
    from learned_optimization.outer_trainers.truncated_pes import TruncatedPES
    from learned_optimization.outer_trainers.truncation_schedule import ConstantTruncationSchedule
    from learned_optimization.tasks.base import single_task_to_family
    from learned_optimization.tasks.datasets.base import Datasets
    from learned_optimization.tasks.fixed.image_mlp import _MLPImageTask

    shapes = {
        "image": jax.ShapeDtypeStruct((BATCH, 8, 8, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    splits = [batches(seed) for seed in range(4)]
    data = Datasets(*splits, extra_info={"num_classes": 10}, abstract_batch=shapes)
    family = single_task_to_family(_MLPImageTask(data, [32]))
    rule = MLPLOpt(hidden_size=hidden, hidden_layers=2, compute_summary=False)
    given = (family, rule, ConstantTruncationSchedule(10_000), TASKS)
    if way == "PES":
        estimator = TruncatedPES(*given, trunc_length=WINDOW, std=0.01, steps_per_jit=10)
    else:
        estimator = TruncatedGrad(*given, unroll_length=WINDOW, steps_per_jit=10)
    key = jax.random.PRNGKey(0)
    theta = rule.init(key)
    outer = gradient_learner.OuterState(jnp.asarray(0))
    weights = gradient_learner.WorkerWeights(theta, None, outer)
    state = estimator.init_worker_state(weights, key)
    steps = TASKS * WINDOW * (2 if way == "PES" else 1)
    rates: list[float] = []
    spent, number = 0.0, 0
    while spent < seconds or len(rates) < 5:
        started = time.process_time()
        found, _ = estimator.compute_gradient_estimate(
            weights, jax.random.fold_in(key, number), state, with_summary=False
        )
        state = jax.block_until_ready(found.unroll_state)
        took, number = time.process_time() - started, number + 1
        if number > 3:  # the first ones compile
            rates.append(steps / took)
            spent += took
    return {
        "way": way,
        "meta_parameters": sum(int(x.size) for x in jax.tree_util.tree_leaves(theta)),
        "inner_steps_per_cpu_second": round(statistics.median(rates), 1),
        "fastest": round(max(rates), 1),
        "windows": len(rates),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "load": round(os.getloadavg()[0], 2),
        "jax": jax.__version__,
    }


def main(
    out: Annotated[Path, typer.Option()] = Path("runs/learned_optimization.json"),
    seconds: Annotated[float, typer.Option(help="Processor seconds per case.")] = 15.0,
    case: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all cases, each in a process of its own."""
    if case is not None:
        print(json.dumps(measure(*json.loads(case))))
        return
    found = []
    for way, hidden in CASES:
        command = [sys.executable, __file__, "--case", json.dumps([way, hidden, seconds])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
