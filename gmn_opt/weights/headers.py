"""What a safetensors file says of itself, read and checked before any of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gmn_opt.weights.plain import is_count, shown

Shapes = Mapping[str, tuple[int, ...]]
#: Which blocks of a learned rule mix directions, see `gmn_opt.optim.RuleConfig`.
MixtureName = Literal["none", "adam", "all"]
MIXTURES: tuple[MixtureName, ...] = get_args(MixtureName)
#: Tensors that a file may have; the largest networks of ours have some hundreds.
MOST_TENSORS = 4096
#: Arithmetic on tensors ends at 64.
MOST_AXES = 16
MOST_NAME = 400
_DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_FOREIGN = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class WeightsError(ValueError):
    """A weights file is missing, damaged, or made for something else."""


class OpenFile:
    """A safetensors file whose header has been checked.

    Raises WeightsError when it is missing, cut off or damaged, has too many tensors, an
    unprintable name, or any tensor that is not made of floating-point numbers.

    Attributes:
        metadata: What its writer said.
        shapes: Of all tensors, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise WeightsError(f"There is no weights file at {path}.")
        try:
            # opened by the path every time: tensors are read from a map of the file
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                self.metadata: Mapping[str, str] = file.metadata() or {}
                self._check_names(names)
                parts = {name: file.get_slice(name) for name in names}
                self.shapes = {n: tuple(s.get_shape()) for n, s in parts.items()}
                dtypes = {n: str(s.get_dtype()) for n, s in parts.items()}
        except (SafetensorError, OSError, UnicodeError, OverflowError) as error:
            raise self._damaged(error) from error
        for name, shape in self.shapes.items():
            if len(shape) > MOST_AXES:
                raise WeightsError(
                    f"{path}: tensor {shown(name)!r} has {len(shape)} axes, at most {MOST_AXES} "
                    "are read. It is none of gmn-opt's."
                )
        for name, dtype in dtypes.items():
            if dtype not in _DTYPES:
                raise WeightsError(
                    f"{path}: tensor {shown(name)!r} has dtype {_FOREIGN.get(dtype, dtype)}, but "
                    f"weights are one of {', '.join(str(d) for d in _DTYPES.values())}. Convert "
                    "it, or copy the file again."
                )

    def _check_names(self, names: list[str]) -> None:
        if len(names) > MOST_TENSORS:
            raise WeightsError(
                f"{self.path} has {len(names):,} tensors, at most {MOST_TENSORS:,} are read. It is "
                "none of gmn-opt's."
            )
        if odd := [n for n in names if len(n) > MOST_NAME or not n.isprintable()]:
            raise WeightsError(
                f"{self.path} has a tensor named {shown(odd[0])!r}; names are at most {MOST_NAME} "
                "characters that can be printed. Rename it, or copy the file again."
            )

    def _damaged(self, error: BaseException) -> WeightsError:
        return WeightsError(
            f"{self.path} is cut off or damaged, or is no safetensors file "
            f"({shown(str(error), 200)}). Copy or download it again. Only safetensors are read, "
            "since a pickle may run code; convert with safetensors.torch.save_file."
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors; raises WeightsError for NaN, infinity, and what no float32 can hold."""
        try:
            with safe_open(self.path, framework="pt") as file:
                # copies: products of tensors as they lie in a file may differ in the last digit
                found = {name: file.get_tensor(name).clone() for name in self.shapes}
        except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
            raise self._damaged(error) from error
        for name, t in found.items():
            if not bool(t.isfinite().all()):
                raise WeightsError(
                    f"{self.path}: tensor {shown(name)!r} holds NaN or infinity, so nothing that "
                    "it computes would be a number. Take an earlier version of these weights."
                )
            if not bool(t.to(torch.float32).isfinite().all()):
                raise WeightsError(
                    f"{self.path}: tensor {shown(name)!r} holds numbers beyond those of float32. "
                    "Take an earlier version of these weights."
                )
        return found


def check_metanet(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise ValueError unless the sizes of a metanet are those of the tensors ``metanet.*``.

    A network of the sizes that ``config`` asks for is then about as large as the file.
    """
    hidden, edge_hidden, layers = _counts(config, "hidden", "edge_hidden", "layers")
    want: dict[str, tuple[Any, ...]] = {"metanet.graph_state": (hidden,)}
    for i in _numbered(shapes, "layers", layers):
        want[f"metanet.layers.{i}.node_mlp.second.weight"] = (hidden, hidden)
        want[f"metanet.layers.{i}.edge.weight"] = (edge_hidden, edge_hidden)
    compare({n: shapes.get(n) for n in want}, want)


def _check_block_reader(config: Mapping[str, Any], shapes: Shapes) -> None:
    """The same for a rule without messages."""
    hidden, _, layers = _counts(config, "hidden", "edge_hidden", "layers")
    want: dict[str, tuple[Any, ...]] = {"metanet.graph_state": (hidden,)}
    for i in _numbered(shapes, "block_mlps", layers):
        want[f"metanet.block_mlps.{i}.second.weight"] = (hidden, hidden)
    compare({n: shapes.get(n) for n in want}, want)


def _counts(config: Mapping[str, Any], *names: str) -> tuple[int, ...]:
    """Sizes by their names; raises ValueError unless they are positive whole numbers."""
    for name in names:
        if not is_count(value := config.get(name)):
            raise ValueError(f"{name} must be a positive whole number, received {shown(value)}")
    return tuple(config[name] for name in names)


def _numbered(shapes: Shapes, module: str, layers: int) -> range:
    """Numbers of the layers ``metanet.module``; raises ValueError unless as many as ``layers``."""
    pattern = re.compile(rf"metanet\.{module}\.(\d{{1,6}})\.")
    numbers = {int(found[1]) for n in shapes if (found := pattern.match(n))}
    if numbers != set(range(len(numbers))) or len(numbers) != layers:
        raise ValueError(f"layers is {layers}, but its tensors are those of {len(numbers)}")
    return range(layers)


def check_rule(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise ValueError unless ``config`` and ``shapes`` can be those of a learned rule."""
    if "every" not in config:
        return  # of an older version, which the reader of rules refuses with its own words
    for name in ("neurons", "messages"):
        if not isinstance(value := config.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, received {shown(value)}")
    if (mixture := config.get("mixture", "all")) not in MIXTURES:
        raise ValueError(f"mixture must be one of {list(MIXTURES)}, received {shown(mixture)}")
    if config.get("messages", True):
        check_metanet(config, shapes)
    else:
        _check_block_reader(config, shapes)
    if not is_count(config["every"], most=10**6):
        raise ValueError(f"every must be a positive whole number, is {shown(config['every'])}")


def compare(have: Mapping[str, tuple[int, ...] | None], want: Mapping[str, Any]) -> None:
    """Raise ValueError for the first shape that is not as wanted."""
    if missing := sorted(n for n in want if have.get(n) is None):
        raise ValueError(f"its tensors lack {', '.join(shown(n) for n in missing[:4])}")
    if extra := sorted(have.keys() - want.keys()):
        raise ValueError(f"nothing takes its tensors {', '.join(shown(n) for n in extra[:4])}")
    for name, shape in want.items():
        if have[name] != tuple(shape):
            raise ValueError(f"tensor {name} has shape {have[name]}, not {shown(tuple(shape))}")
