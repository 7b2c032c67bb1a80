"""Weights shared: as a folder, and by a hub of the ``huggingface_hub`` kind.

A folder holds ``weights.safetensors``, which says itself what it is and how it is built,
``card.json``, the model card, and ``README.md``, the same for people. Nothing is ever pickled, and
nothing but these three files is fetched. Hubs need ``pip install 'gmn-opt[hub]'``, folders do not.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gmn_opt.extras import needs
from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.folders import CARD, PAGE, WEIGHTS, in_folder
from gmn_opt.weights.headers import OpenFile, WeightsError
from gmn_opt.weights.plain import parse_json, shown
from gmn_opt.weights.shipped import available, find, read_card

if TYPE_CHECKING:
    from gmn_opt.generate import Generator
    from gmn_opt.inr import WeightEditor
    from gmn_opt.optim import LearnedRule
    from gmn_opt.predict import CalibratedPredictor, Predictor

    #: What can be shared.
    Shared: TypeAlias = LearnedRule | WeightEditor | Predictor | CalibratedPredictor | Generator


def save_pretrained(
    weights: Shared | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder that ``weights=`` takes, and that :func:`push_to_hub` uploads.

    Args:
        weights: A learned rule, an editor, a predictor or a generator; or the name, the file or the
            folder of one.
        folder: Made where it is missing; what it holds under the same names is replaced.
        card: Plain values that say what it is: ``what``, ``data``, ``results`` and so on. None
            takes the card of what has one.

    Returns:
        The folder.

    Raises WeightsError when there are no such weights, TypeError for anything else, OSError when
    the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(weights, str | os.PathLike):
        source = find(weights)
        kind = kind_of(source)
        known = [p for p in (source.with_suffix(".json"), source.parent / CARD) if p.is_file()]
        if card is None and known:
            card = read_card(known[0])
        if source.resolve() != (folder / WEIGHTS).resolve():
            write_atomically(folder / WEIGHTS, lambda p: shutil.copyfile(source, p))
    else:
        _save(weights, folder / WEIGHTS)
        kind = kind_of(folder / WEIGHTS)
    facts = {"kind": kind, **(card or {})}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    parse_json(text)
    page = _page(facts)
    write_atomically(folder / CARD, lambda p: p.write_text(text, encoding="utf-8"))
    write_atomically(folder / PAGE, lambda p: p.write_text(page, encoding="utf-8"))
    return folder


def from_pretrained(
    where: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """A learned rule, editor, predictor or generator: whatever the weights say that they are.

    Give a rule to ``GMNOptimizer(..., weights=...)``, a calibrated predictor to
    ``predict_accuracy(..., weights=...)``.

    Args:
        where: A folder, a ``.safetensors`` file, a shipped name, or else ``owner/name`` on a hub.
        revision: Branch, tag or commit on the hub; name a commit to get the same for ever.
        token: As of ``huggingface_hub``.
        cache_dir: Where what was fetched is kept.

    Raises WeightsError for damaged weights, those of a kind that this version does not know, and a
    repository without weights; what ``huggingface_hub`` raises when it cannot be reached.
    """
    text = os.fspath(where)
    local = text.endswith(".safetensors") or text in available() or Path(text).is_dir()
    if not local and "/" not in text:
        raise WeightsError(
            f"There are no weights {text!r}: no shipped ones ({', '.join(available())}), no folder "
            "of this name, and a repository on a hub is written owner/name."
        )
    return _load(find(text) if local else _fetch(text, revision, token, cache_dir))


def push_to_hub(
    weights: Shared | str | os.PathLike[str],
    repo_id: str,
    card: Mapping[str, Any] | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Weights by gmn-opt",
) -> str:
    """Upload weights and their card to a hub; returns the address of the commit.

    Args:
        weights, card: As of :func:`save_pretrained`.
        repo_id: ``owner/name``; made where it is missing.
        private: Whether a new repository is.
        token, revision, commit_message: As of ``huggingface_hub``.

    Raises as :func:`save_pretrained`, and what ``huggingface_hub`` raises.
    """
    with needs("hub"):
        from huggingface_hub import HfApi
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(weights, folder, card)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[WEIGHTS, CARD, PAGE],
            revision=revision,
            commit_message=commit_message,
        )
    return str(done)


def kind_of(path: Path) -> str:
    """What a weights file says that it holds; raises WeightsError for a file of others."""
    try:
        about = parse_json(OpenFile(path).metadata.get("gmn_opt", "null"))
    except ValueError as error:
        raise WeightsError(f"{path} does not say what it is ({shown(str(error), 120)}).") from error
    if not isinstance(about, dict) or not isinstance(about.get("kind"), str):
        raise WeightsError(f"{path} is a safetensors file, but not one of gmn-opt's.")
    return str(about["kind"])


def _fetch(
    repo_id: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Path:
    with needs("hub"):
        from huggingface_hub import snapshot_download
    folder = snapshot_download(
        repo_id,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        allow_patterns=[WEIGHTS, CARD, PAGE],
    )
    return in_folder(Path(folder))


def _save(weights: object, path: Path) -> None:
    """Each kind by its own writer."""
    from gmn_opt.inr import WeightEditor, save_editor
    from gmn_opt.optim import LearnedRule, save_rule

    if isinstance(weights, LearnedRule):
        save_rule(path, weights)
    elif isinstance(weights, WeightEditor):
        save_editor(path, weights, weights.about)
    elif callable(writer := getattr(weights, "save", None)) and type(weights).__module__.startswith(
        "gmn_opt."
    ):
        writer(path)
    else:
        raise TypeError(
            f"A {type(weights).__name__} cannot be shared; a LearnedRule, a WeightEditor, a "
            "Predictor, a CalibratedPredictor and a Generator can."
        )


def _load(path: Path) -> Any:
    """Each kind by its own reader."""
    from gmn_opt.generate import Generator
    from gmn_opt.inr import load_editor
    from gmn_opt.optim import load_rule
    from gmn_opt.predict import CalibratedPredictor, Predictor

    readers = {
        "learned rule": load_rule,
        "inr editor": load_editor,
        "predictor": Predictor.load,
        "calibrated-predictor": CalibratedPredictor.load,
        "network generator": Generator.load,
    }
    kind = kind_of(path)
    if kind not in readers:
        raise WeightsError(
            f"{path} holds a {shown(kind)}; this gmn-opt knows {', '.join(readers)}. Install the "
            "gmn-opt that wrote it."
        )
    return readers[kind](path)  # type: ignore[operator]


#: What a page imports and calls, by kind.
_USES = {
    "learned rule": (
        "from gmn_opt import GMNOptimizer\n",
        "optimizer = GMNOptimizer(model.parameters(), weights=weights)",
    ),
    "calibrated-predictor": (
        "from gmn_opt import predict_accuracy\n",
        "print(predict_accuracy(model, inputs, weights=weights))",
    ),
}


def _page(facts: Mapping[str, Any]) -> str:
    """The card for people, with the header that hubs read."""
    title = str(facts.get("what", facts["kind"]))
    imported, use = _USES.get(str(facts["kind"]), ("", "print(weights)"))
    body = json.dumps(facts, indent=2, ensure_ascii=False)
    return (
        "---\nlibrary_name: gmn-opt\ntags:\n- gmn-opt\n- graph-metanetwork\n---\n\n"
        f"# {title[:1].upper() + title[1:]}\n\n"
        f"```python\n{imported}from gmn_opt.hub import from_pretrained\n\n"
        f'weights = from_pretrained("owner/name")  # or the path of this folder\n{use}\n```\n\n'
        f"```json\n{body}\n```\n"
    )


__all__ = ["from_pretrained", "kind_of", "push_to_hub", "save_pretrained"]
