"""Files as strangers send them: damaged anywhere, or with a header that asks for the impossible."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 20_000, 10**7, 2**31, 2**63, 10**17, 10**30, -(10**12), 0.5,
    -0.0, 1e308, 1e-308, float("nan"), float("inf"), -float("inf"), "", "x", "²", "9" * 50,
    "\x1b[2J", "../../etc/passwd", "ключ", "e" * 5000, [], {}, [[]], [1], [0, 0], [20_000, 20_000],
    [1] * 300, [10**7] * 3, [True, True], ["32", "32"], {"family": []}, {"a": {"b": {"c": {}}}},
]  # fmt: skip
#: Written as they stand: Python's json would not write them.
RAW = [
    "1" * 5000,
    "[" * 30_000 + "]" * 30_000,
    "-" + "7" * 400,
    '"\\ud800"',
    "1e999",
    '{"a":' * 999,
]
_MARK = "@raw@"


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a tree of dicts and lists."""
    found, waiting = [], [tree]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                waiting.append(one[key])
    return found


def mutate_json(text: str, draw: random.Random) -> str:
    """JSON with one to three values exchanged, removed, renamed or added."""
    tree = json.loads(text)
    raw = ""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        places = _places(tree)
        if not places:
            break
        where, key = draw.choice(places)
        action = draw.randrange(8)
        if action == 0:
            del where[key]
        elif action == 1 and isinstance(where, dict):
            where[draw.choice(["²", "", "x\x00", "layers.9" + "9" * 30])] = where.pop(key)
        elif action == 2 and type(where[key]) in (int, float):
            where[key] = where[key] * draw.choice([-1, 0, 2, 1000, 10**6, 0.5])
        elif action == 3:
            where[key], raw = _MARK, draw.choice(RAW)
        else:
            where[key] = deepcopy(draw.choice(NASTY))  # it may be changed in its turn
    return json.dumps(tree).replace(f'"{_MARK}"', raw)


def mutate_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file with another header: what it says of itself, or names and shapes."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    about = header.get("__metadata__", {}).get("gmn_opt")
    if about is not None and draw.random() < 0.7:
        header["__metadata__"]["gmn_opt"] = mutate_json(about, draw)
        text = json.dumps(header)
    elif draw.random() < 0.3:
        names = [n for n in header if n != "__metadata__"]
        for name in draw.sample(names, min(len(names), draw.choice([1, 2, 9]))):
            added = draw.choice(["²", ".weight", "\x1b", "0" * 60, "." * 60])
            header[draw.choice([added, name + added, added + name])] = header.pop(name)
        text = json.dumps(header)
    else:
        text = mutate_json(json.dumps(header), draw)
    made = text.encode("utf-8", "surrogatepass")
    return len(made).to_bytes(8, "little") + made + body


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """One bit, some bytes, a block, the end, or the length of the header changed."""
    out, action = bytearray(content), draw.randrange(7)
    at = draw.randrange(len(out))
    if action == 0:
        out[at] ^= 1 << draw.randrange(8)
    elif action == 1:
        for _ in range(20):
            out[draw.randrange(len(out))] = draw.randrange(256)
    elif action == 2:
        out[at : at + 4096] = bytes(len(out[at : at + 4096]))
    elif action == 3:
        del out[at:]
    elif action == 4:
        out[at:at] = out[: draw.randrange(1, 500)]
    elif action == 5:
        # the header's length
        out[:8] = draw.choice([0, 1, 7, 99_999_999, 2**40, 2**64 - 1]).to_bytes(8, "little")
    else:
        at = draw.randrange(min(len(out), 2000))
        out[at : at + 1] = draw.choice([b'"', b"{", b"[", b"\x00", b"\xff", b"-", b"9" * 30])
    return bytes(out)


def mutated(content: bytes, draw: random.Random, is_json: bool) -> bytes:
    """One of all kinds of damage."""
    if draw.random() < 0.4:
        return mutate_bytes(content, draw)
    if is_json:
        return mutate_json(content.decode(), draw).encode("utf-8", "surrogatepass")
    change: Callable[[bytes, random.Random], bytes] = mutate_header
    return change(content, draw)
