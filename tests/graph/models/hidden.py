"""Models that hide from a trace: results in odd containers, state, modes, memory, threads.

Every one is a :class:`Hidden` with a body of its own; ``read`` gives the tensors of its output,
which no symmetry may change. ``spaces`` is the number of free index sets at least to be found.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections import UserDict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

WIDTH = 6


class Hidden(nn.Module):
    """Two layers, or three, and a body that does something with them."""

    ramp: Tensor

    def __init__(self, body: Callable[[Any, Tensor], Any], prepare: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.register_buffer("ramp", torch.linspace(0.5, 2, WIDTH))
        self.cache: Any = None
        self.ready = False
        self.box: dict[str, Any] = {}
        self.items: list[Any] = []
        self.body = body
        if prepare is not None:
            prepare(self)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.b(torch.tanh(self.a(x))))


class Case(NamedTuple):
    """A row of the table."""

    name: str
    body: Callable[[Any, Tensor], Any]
    spaces: int
    read: Callable[[Any, Any], list[Tensor]] = lambda model, out: [out]
    prepare: Callable[[Any], None] | None = None
    train: bool = False
    batch: int = 5

    def make(self) -> tuple[Hidden, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Hidden(self.body, self.prepare).train(self.train)
            return model, torch.randn(self.batch, 4)


# ---------------------------------------------------------------------- 1. odd containers


@dataclass(slots=True)
class Slotted:
    """A result without ``__dict__``."""

    h: Tensor
    y: Tensor


class ByHand:
    """Slots without a dataclass, below a base class that has its own."""

    __slots__ = ("pair",)

    def __init__(self, *pair: Tensor) -> None:
        self.pair = pair


class Lookup(Mapping[str, Tensor]):
    """A mapping that is no dict, and makes its items when asked."""

    def __init__(self, h: Tensor, y: Tensor) -> None:
        self.inner = (h, y)

    def __getitem__(self, key: str) -> Tensor:
        return self.inner["hy".index(key)]

    def __iter__(self) -> Iterator[str]:
        return iter("hy")

    def __len__(self) -> int:
        return 2


def wrapped(wrap: Callable[[Tensor, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    def body(m: Hidden, x: Tensor) -> Any:
        h = m.hidden(x)
        return wrap(h, m.c(h))

    return body


def on_itself(m: Hidden, x: Tensor) -> None:
    m.cache = m.hidden(x)


def in_a_list_of_its_own(m: Hidden, x: Tensor) -> Hidden:
    m.items.append(m.hidden(x))
    return m


def lazily(m: Hidden, x: Tensor) -> Iterator[Tensor]:
    yield m.hidden(x)
    yield m.c(m.hidden(x) * 2)


OUTPUTS = [
    Case("slots", wrapped(Slotted), 1, lambda m, o: [o.h, o.y]),
    Case("slots_by_hand", wrapped(ByHand), 1, lambda m, o: list(o.pair)),
    Case("deque", wrapped(lambda h, y: deque([h, y])), 1, lambda m, o: list(o)),
    Case("proxy", wrapped(lambda h, y: MappingProxyType({"h": h, "y": y})), 1,
         lambda m, o: list(o.values())),
    Case("view", wrapped(lambda h, y: {"h": h, "y": y}.values()), 1, lambda m, o: list(o)),
    Case("items", wrapped(lambda h, y: {"h": h, "y": y}.items()), 1,
         lambda m, o: [t for _, t in o]),
    Case("user_dict", wrapped(lambda h, y: UserDict(h=h, y=y)), 1, lambda m, o: list(o.values())),
    Case("mapping", wrapped(Lookup), 1, lambda m, o: list(o.values())),
    Case("iterator", wrapped(lambda h, y: map(torch.sin, iter([h, y]))), 1,
         lambda m, o: list(o)),
    Case("generator", lazily, 1, lambda m, o: list(o)),
    Case("closure", wrapped(lambda h, y: lambda: h), 1, lambda m, o: [o()]),
    Case("partial", wrapped(lambda h, y: partial(torch.add, h)), 1, lambda m, o: [o(0)]),
    Case("namespace", wrapped(lambda h, y: SimpleNamespace(y=y, more=[(h,)])), 1,
         lambda m, o: [o.more[0][0], o.y]),
    Case("array", wrapped(lambda h, y: {"h": h.detach().numpy()}), 1,
         lambda m, o: [torch.as_tensor(o["h"])]),
    Case("on_itself", on_itself, 1, lambda m, o: [m.cache]),
    Case("in_a_list", in_a_list_of_its_own, 1, lambda m, o: [m.items[-1]]),
]  # fmt: skip

# ---------------------------------------------------------------------- 2. state


def cached(m: Hidden, x: Tensor) -> Tensor:
    if m.cache is None:
        m.cache = 2 * m.c.weight
    return m.hidden(x) @ m.cache.T


def cached_in_dict(m: Hidden, x: Tensor) -> Tensor:
    return m.hidden(x) @ m.box.setdefault("c", 2 * m.c.weight).T


def cached_in_list(m: Hidden, x: Tensor) -> Tensor:
    if not m.items:
        m.items.append({"deep": [m.c.weight.sin()]})
    return m.hidden(x) @ m.items[0]["deep"][0].T


def cached_on_parameter(m: Hidden, x: Tensor) -> Tensor:
    weight: Any = m.c.weight
    if not hasattr(weight, "doubled"):
        weight.doubled = 2 * weight
    return m.hidden(x) @ weight.doubled.T


class Store:
    """An object that is no module, with slots and a class attribute."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


def cached_in_object(m: Hidden, x: Tensor) -> Tensor:
    if m.cache.value is None:
        m.cache.value = m.c.weight * 3
    return m.hidden(x) @ m.cache.value.T


def with_store(m: Hidden) -> None:
    m.cache = Store()


class ByClass(Hidden):
    """Keeps what it makes in its class, and in a method that remembers."""

    shared: Any = None

    @lru_cache  # noqa: B019 - the trap
    def doubled(self) -> Tensor:
        return 2 * self.c.weight


def cached_in_class(m: Hidden, x: Tensor) -> Tensor:
    if ByClass.shared is None:
        ByClass.shared = m.c.weight * 2
    return m.hidden(x) @ ByClass.shared.T


def cached_by_method(m: Any, x: Tensor) -> Tensor:
    return m.hidden(x) @ m.doubled().T


def becomes(kind: type) -> Callable[[Any], None]:
    def prepare(m: Any) -> None:
        kind.shared = None  # type: ignore[attr-defined]
        m.__class__ = kind

    return prepare


def buffer_registered(m: Hidden, x: Tensor) -> Tensor:
    if "late" not in dict(m.named_buffers()):
        m.register_buffer("late", m.c.weight.detach().clone())
    return m.hidden(x) @ m.late.T  # type: ignore[operator]


def initialized_by_data(m: Hidden, x: Tensor) -> Tensor:
    h = m.b(torch.tanh(m.a(x)))
    if not m.ready:
        with torch.no_grad():
            m.b.bias.sub_(h.mean(0))
        m.ready = True
        h = m.b(torch.tanh(m.a(x)))
    return m.c(torch.tanh(h))


def membrane(m: Hidden, x: Tensor) -> Tensor:
    h = m.a(x)
    m.cache = h if m.cache is None else 0.9 * m.cache + h
    spikes = (m.cache > 0).to(h.dtype)
    return m.c(spikes * m.cache)


def membrane_in_place(m: Hidden, x: Tensor) -> Tensor:
    m.box["v"].mul_(0.9).add_(x.sum())
    return m.c(m.hidden(x)) * m.box["v"]


def with_membrane(m: Hidden) -> None:
    m.box["v"] = torch.ones(1)


def observer(m: Hidden, x: Tensor) -> Tensor:
    h = m.hidden(x)
    if m.cache.numel() == 0:
        m.cache.resize_(WIDTH)
        m.cache.copy_(h.detach().amax(0))
    return m.c(h * m.cache.clamp_min(0.1))


def with_observer(m: Hidden) -> None:
    m.cache = torch.empty(0)


def alternating(m: Hidden, x: Tensor) -> Tensor:
    m.ready = not m.ready
    return m.c(m.hidden(x)) if m.ready else m.c(m.hidden(x) * m.ramp)


def parameter_exchanged(m: Hidden, x: Tensor) -> Tensor:
    if not m.ready:
        m.c.weight = nn.Parameter(m.c.weight.detach() * 2)
        m.a.weight.requires_grad_(False)
        m.ready = True
    return m.c(m.hidden(x))


STATE = [
    Case("cached", cached, 2),
    Case("cached_in_dict", cached_in_dict, 2),
    Case("cached_in_list", cached_in_list, 2),
    Case("cached_on_parameter", cached_on_parameter, 2),
    Case("cached_in_object", cached_in_object, 2, prepare=with_store),
    Case("cached_in_class", cached_in_class, 2, prepare=becomes(ByClass)),
    Case("cached_by_method", cached_by_method, 2, prepare=becomes(ByClass)),
    Case("buffer_registered", buffer_registered, 2),
    Case("initialized_by_data", initialized_by_data, 2),
    Case("membrane", membrane, 1),
    Case("membrane_in_place", membrane_in_place, 2, prepare=with_membrane),
    Case("observer", observer, 1, prepare=with_observer),
    Case("alternating", alternating, 1),
    Case("parameter_exchanged", parameter_exchanged, 0),
]

# ---------------------------------------------------------------------- 3. modes


def auxiliary_head(m: Any, x: Tensor) -> Any:
    h = m.hidden(x)
    return (m.c(h), m.extra(h * m.ramp)) if m.training else m.c(h)


def ramp_in_training(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    return m.c(h * m.ramp) if m.training else m.c(h)


def head_in_evaluation(m: Any, x: Tensor) -> Any:
    h = m.hidden(x)
    return m.c(h) if m.training else (m.c(h), m.extra(h.flip(-1)))


def auxiliary_needs_two(m: Any, x: Tensor) -> Any:
    h = m.hidden(x)
    if not m.training:
        return m.c(h)
    return m.c(h), m.extra(m.norm(h) * m.ramp)


def seeded_in_training(m: Any, x: Tensor) -> Tensor:
    """In training mode, noise by which hidden neurons can be told apart for ever."""
    h = m.hidden(x)
    if m.training:
        h = h * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3), dtype=h.dtype)
    return m.c(h)


def reseeded_in_training(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    if m.training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            h = h * torch.randn(WIDTH, dtype=h.dtype)
    return m.c(h)


def state_set_in_training(m: Any, x: Tensor) -> Tensor:
    h = m.hidden(x)
    if m.training:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(m.box["state"])
            h = h * torch.rand(WIDTH, dtype=h.dtype)
    return m.c(h)


def with_random_state(m: Hidden) -> None:
    m.box["state"] = torch.Generator().manual_seed(5).get_state()


def dropout_reseeded(m: Any, x: Tensor) -> Tensor:
    """A mask that is the same in every pass."""
    h = m.hidden(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        mask = nn.functional.dropout(torch.ones_like(h[0]), 0.5, m.training)
    return m.c(h * mask)


def with_extra(m: Any) -> None:
    m.extra = nn.Linear(WIDTH, 2)
    m.norm = nn.BatchNorm1d(WIDTH)


def both(m: Any, out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]


MODES = [
    Case("auxiliary_head", auxiliary_head, 1, both, with_extra),
    Case("ramp_in_training", ramp_in_training, 1, both),
    Case("head_in_evaluation", head_in_evaluation, 1, both, with_extra, train=True),
    Case("seeded_in_training", seeded_in_training, 1),
    Case("reseeded_in_training", reseeded_in_training, 1),
    Case("state_set_in_training", state_set_in_training, 1, prepare=with_random_state),
    Case("dropout_reseeded", dropout_reseeded, 1),
    Case("dropout_reseeded_now", dropout_reseeded, 1, train=True),
    Case("auxiliary_needs_two", auxiliary_needs_two, 0, both, with_extra, batch=1),
]

# ---------------------------------------------------------------------- 4. memory


def plain(m: Hidden, x: Tensor) -> Tensor:
    return m.c(m.hidden(x))


def with_ramp(m: Hidden, x: Tensor) -> Tensor:
    return m.c(m.b(torch.tanh(m.a(x)) * m.ramp))


def shares_bias(m: Hidden) -> None:
    m.b.bias.data = m.a.bias.data


def shares_transposed(m: Any) -> None:
    m.b = nn.Linear(WIDTH, WIDTH)
    m.c = nn.Linear(WIDTH, 4)
    m.c.weight.data = m.a.weight.data.T


def shares_with_buffer(m: Hidden) -> None:
    m.a.bias.data = m.ramp


def shares_a_part(m: Hidden) -> None:
    whole = torch.randn(WIDTH + 1)
    m.a.bias.data, m.b.bias.data = whole[:-1], whole[1:]


def shares_nothing(m: Hidden) -> None:
    whole = torch.randn(2 * WIDTH)
    m.a.bias.data, m.b.bias.data = whole[:WIDTH], whole[WIDTH:]


def shares_with_attribute(m: Hidden) -> None:
    m.cache = m.c.weight.data


def by_attribute(m: Hidden, x: Tensor) -> Tensor:
    return m.hidden(x) @ m.cache.T


MEMORY = [
    Case("shares_bias", plain, 1, prepare=shares_bias),
    Case("shares_transposed", plain, 1, prepare=shares_transposed),
    Case("shares_with_buffer", with_ramp, 1, prepare=shares_with_buffer),
    Case("shares_a_part", plain, 0, prepare=shares_a_part),
    Case("shares_nothing", plain, 2, prepare=shares_nothing),
    Case("shares_with_attribute", by_attribute, 2, prepare=shares_with_attribute),
]

# ---------------------------------------------------------------------- 5. out of sight


def in_thread(function: Callable[[], Tensor]) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(function().detach()))
    thread.start()
    thread.join()
    return found[0]


def unseen(how: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """The first hidden unit, read out of sight, scales all of them."""

    def body(m: Hidden, x: Tensor) -> Tensor:
        h = m.hidden(x)
        return m.c(h * how(m, h))

    return body


def by_dlpack(m: Any, h: Tensor) -> Tensor:
    capsule = torch.utils.dlpack.to_dlpack(h.detach())
    return torch.utils.dlpack.from_dlpack(capsule)[:, :1]


def by_pickle(m: Any, h: Tensor) -> Tensor:
    found: Tensor = pickle.loads(pickle.dumps(h.detach()))
    return found[:, :1]


def by_saving(m: Any, h: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(h.detach(), file)
    file.seek(0)
    found: Tensor = torch.load(file)
    return found[:, :1]


def by_set(m: Any, h: Tensor) -> Tensor:
    h = h.contiguous()
    return torch.empty(0, dtype=h.dtype).set_(h.untyped_storage(), 0, (len(h), 1), (WIDTH, 1))


def without_modes(m: Any, h: Tensor) -> Tensor:
    with _disable_current_modes():
        return h[:, :1].clone()


def written_in_thread(m: Any, h: Tensor) -> Tensor:
    out = torch.ones(len(h), 1)
    in_thread(lambda: out.copy_(h.detach()[:, :1]))
    return out


def by_pool(m: Any, h: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: h.detach()[:, :1] * 2).result()


def weight_in_thread(m: Any, h: Tensor) -> Tensor:
    return in_thread(lambda: m.c.weight[:1, :1])


UNSEEN = [
    Case("thread", unseen(lambda m, h: in_thread(lambda: h[:, :1] * 1)), 0),
    Case("scalar_in_thread", unseen(lambda m, h: in_thread(lambda: h[0, 0] * 1)), 0),
    Case("weight_in_thread", unseen(weight_in_thread), 0),
    Case("pool", unseen(by_pool), 0),
    Case("deepcopy", unseen(lambda m, h: copy.deepcopy(h.detach())[:, :1]), 1),
    Case("pickle", unseen(by_pickle), 0),
    Case("saving", unseen(by_saving), 0),
    Case("dlpack", unseen(by_dlpack), 0),
    Case("set", unseen(by_set), 0),
    Case("without_modes", unseen(without_modes), 0),
    Case("written_in_thread", unseen(written_in_thread), 0),
]

HIDDEN = [*OUTPUTS, *STATE, *MODES, *MEMORY, *UNSEEN]
