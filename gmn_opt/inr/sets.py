"""Sets of fitted INRs in a folder: shards, a manifest with checksums, and the way back.

A shard ``params-00000.safetensors`` holds stacked parameters ``params.NAME`` [n, *shape], the
images ``images`` they were fitted to, ``psnr``, ``steps`` and, where there are any, ``labels``.
``manifest.json`` says how they were made, and is rewritten after every shard, so that a run that
was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from gmn_opt.inr.base import Inr, InrConfig, Params, config_from_dict
from gmn_opt.inr.fitting import FitConfig, FittedInrs, as_targets, fit_batch
from gmn_opt.weights import WeightsError
from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.headers import compare
from gmn_opt.weights.plain import is_count, read_json, reason, shown

MANIFEST = "manifest.json"
_FORMAT = 1
_SHARD = re.compile(r"params-[0-9]{5,9}\.safetensors")


@dataclass(frozen=True)
class InrSet:
    """INRs of one config with the images they represent.

    Attributes:
        config: How each is built.
        params: ``{name: [N, *shape]}``.
        images: What they were fitted to, as given: uint8 or float ``[N, H, W(, C)]``.
        labels: int64 ``[N]``, or None.
        psnr: ``[N]`` in dB.
        manifest: How they were made.
    """

    config: InrConfig
    params: Params
    images: Tensor
    labels: Tensor | None
    psnr: Tensor
    manifest: dict[str, Any]

    def __len__(self) -> int:
        """N."""
        return len(self.psnr)

    def template(self) -> Inr:
        """A network of this config; its own weights mean nothing."""
        with torch.random.fork_rng(devices=[]):
            return self.config.build(torch.Generator().manual_seed(0))

    def targets(self) -> Tensor:
        """The images in ``config.value_range``, float32 ``[N, H, W, outputs]``."""
        return as_targets(self.images, self.config)


def fit_images(
    images: Tensor,
    config: InrConfig,
    fit: FitConfig | None = None,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    shard: int = 1000,
    about: dict[str, Any] | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> InrSet:
    """Fit an INR to every image, with independent initial parameters.

    Args:
        images: See `gmn_opt.inr.fitting.as_targets`.
        config: Of every INR.
        fit: Settings of the fit.
        labels: int64 ``[N]``, kept along.
        seed: Of initial parameters and sampled pixels.
        out: Folder to write shards and the manifest to, each file whole or not at all; None to
            keep all in memory.
        resume: Go on with what is in ``out``.
        shard: INRs per file; what a kill costs at most.
        about: Plain values for the manifest, such as where the images are from.
        progress: Show a bar with rate and PSNR.
        device: Where to compute.

    Raises:
        ValueError: Images that do not fit the config, a folder that holds another set already, or
            one that was begun with other settings.
        RuntimeError: An INR diverges.
    """
    fit = fit or FitConfig()
    as_targets(images[:1], config)  # refuse before anything is written
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "config": config.to_dict(),
        "fit": fit.to_dict(),
        "seed": seed,
        "target_range": list(config.value_range),
        "images": {"shape": list(images.shape), "sha256": _checksum(images)},
        "shard": shard,
        "about": about or {},
        "shards": [],
    }
    if out is not None:
        manifest["shards"] = _begun(Path(out), manifest, resume)
    parts: list[dict[str, Tensor]] = []
    with _bar(progress, len(images)) as advance:
        for number, start in enumerate(range(0, len(images), shard)):
            some = slice(start, min(start + shard, len(images)))
            if out is not None and number < len(manifest["shards"]):
                content = _read(Path(out), manifest["shards"][number])
                advance(content["psnr"], 0.0)
            else:
                keys = range(some.start, some.stop)
                found = fit_batch(images[some], config, fit, seed=seed, keys=keys, device=device,
                                  on_done=lambda psnr: advance(psnr, 1.0))  # fmt: skip
                content = _content(found, images[some], None if labels is None else labels[some])
                if out is not None:
                    _write(Path(out), manifest, number, content, found)
            parts.append(content)
    return _joined(config, parts, manifest)


def load_inr_set(folder: Path) -> InrSet:
    """The set that `fit_images` wrote to ``folder``.

    Raises WeightsError when it is not there, incomplete or damaged.
    """
    manifest = _manifest(Path(folder))
    want, have = manifest["images"]["shape"][0], sum(s["count"] for s in manifest["shards"])
    if want != have:
        raise WeightsError(
            f"{folder} holds {have} of {want} INRs: its run was cut off. Finish it with --resume."
        )
    config = config_from_dict(manifest.get("config", {}))
    parts = [_read(Path(folder), entry) for entry in manifest["shards"]]
    _check_parts(Path(folder), config, parts, manifest)
    return _joined(config, parts, manifest)


# ---------------------------------------------------------------------- files


def _checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _content(found: FittedInrs, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    content = {f"params.{n}": p for n, p in found.params.items()}
    content |= {"images": images.contiguous(), "psnr": found.psnr, "steps": found.steps}
    if labels is not None:
        content["labels"] = labels.contiguous()
    return content


def _write(
    out: Path, manifest: dict[str, Any], number: int, content: dict[str, Tensor], found: FittedInrs
) -> None:
    """One more shard, then the manifest that lists it."""
    # copies, because slices share memory, which safetensors refuses
    data = serialize({n: t.clone() for n, t in content.items()})
    name = f"params-{number:05d}.safetensors"
    write_atomically(out / name, lambda path: path.write_bytes(data))
    manifest["shards"].append(
        {
            "file": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "count": len(found),
            "psnr_mean": round(float(found.psnr.mean()), 3),
            "psnr_min": round(float(found.psnr.min()), 3),
            "steps_mean": round(float(found.steps.double().mean()), 1),
            "seconds": round(found.seconds, 2),
        }
    )
    text = json.dumps(manifest, indent=1) + "\n"
    write_atomically(out / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise WeightsError(f"There is no set of INRs in {folder}: it has no {MANIFEST}.")
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        reason = shown(str(error), 200)
        raise WeightsError(f"{path} is damaged ({reason}). Fit the set again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise WeightsError(f"{path} is no manifest of format {_FORMAT}. Fit the set again.")
    images, shards = manifest.get("images"), manifest.get("shards")
    if not isinstance(images, dict) or not _is_shape(images.get("shape")):
        raise WeightsError(f"{path} is damaged: it lacks the shape of its images.")
    if not isinstance(shards, list) or not all(_is_entry(entry) for entry in shards):
        raise WeightsError(f"{path} is damaged: it does not list its shards.")
    return manifest


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(is_count(n) for n in value)


def _is_entry(value: object) -> bool:
    """Whether a shard is described: a file in the set's own folder, its digest and its INRs."""
    if not isinstance(value, dict) or not is_count(value.get("count")):
        return False
    name, digest = value.get("file"), value.get("sha256")
    return isinstance(digest, str) and isinstance(name, str) and bool(_SHARD.fullmatch(name))


def _begun(out: Path, manifest: dict[str, Any], resume: bool) -> list[dict[str, Any]]:
    """Shards that are there already; raises ValueError unless they belong to this very set."""
    if not (out / MANIFEST).exists():
        return []
    if not resume:
        raise ValueError(f"{out} holds a set of INRs already. Pass resume, or another folder.")
    before = _manifest(out)
    now = json.loads(json.dumps(manifest))  # tuples as lists, as in the file
    changed = [k for k in now if k != "shards" and before.get(k) != now[k]]
    if changed:
        raise ValueError(
            f"{out} was begun with other settings ({', '.join(changed)}); a set cannot be finished "
            "with these. Choose another folder, or the settings in its manifest."
        )
    shards: list[dict[str, Any]] = before["shards"]
    return shards


def _read(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / entry["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({reason(error)}). Fit the set again."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise WeightsError(
            f"{path} is damaged: its sha256 is {found}, expected {entry['sha256']}. Fit the set "
            "again."
        )
    try:
        return dict(deserialize(data))
    except SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file ({reason(error)}).") from error


def _check_parts(
    folder: Path, config: InrConfig, parts: list[dict[str, Tensor]], manifest: dict[str, Any]
) -> None:
    """Raise WeightsError unless every shard holds what the manifest says."""
    for part, entry in zip(parts, manifest["shards"], strict=True):
        count = entry["count"]
        want = {f"params.{n}": (count, *shape) for n, shape in config.shapes().items()}
        want |= {"images": (count, *manifest["images"]["shape"][1:]), "psnr": (count,)}
        try:
            compare({n: tuple(part[n].shape) if n in part else None for n in want}, want)
        except ValueError as error:
            raise WeightsError(
                f"{folder / entry['file']} does not fit {MANIFEST}: {reason(error)}. Fit the set "
                "again."
            ) from error


def _joined(config: InrConfig, parts: list[dict[str, Tensor]], manifest: dict[str, Any]) -> InrSet:
    if not parts:
        raise ValueError("There are no images: a set of INRs needs at least one.")
    whole = {n: torch.cat([p[n] for p in parts]) for n in parts[0]}
    params = {n.removeprefix("params."): t for n, t in whole.items() if n.startswith("params.")}
    with torch.random.fork_rng(devices=[]):
        names = [n for n, _ in config.build().named_parameters()]
    params = {n: params[n] for n in names}
    return InrSet(config, params, whole["images"], whole.get("labels"), whole["psnr"], manifest)


@contextmanager
def _bar(visible: bool, total: int) -> Iterator[Any]:
    """A function ``advance(psnr of finished INRs, whether they were fitted now)``."""
    columns = [
        TextColumn("[bold]fitting INRs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    ]
    state = {"count": 0.0, "psnr": 0.0, "now": 0.0}
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:
        task = bar.add_task("", total=total, info="")

        def advance(psnr: Tensor, now: float) -> None:
            state["count"] += len(psnr)
            state["psnr"] += float(psnr.sum())
            state["now"] += now * len(psnr)
            elapsed = bar.tasks[0].elapsed or 1e-9
            info = f"{state['now'] / elapsed:.0f} INRs/s  {state['psnr'] / state['count']:.1f} dB"
            bar.update(task, advance=len(psnr), info=info)

        yield advance
