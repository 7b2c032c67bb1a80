"""What becomes of the tensors of a traced pass: what made them, and what they serve for.

The labels of :mod:`gmn_opt.graph.tracing` say which indices are the same; here is noted what the
*roles* of parameters need beyond that (:mod:`gmn_opt.graph.roles`). Each tensor carries a small
mark: the products that made it, whether it stems from the model's input alone, whether it was
chosen by somebody's scores. Where marks meet in an operator, facts are noted about the parameters
behind them: two products of activations with a sum over positions between them are an attention,
an activated tensor times another is a gate, scores whose largest ones choose rows are a router.
No names and no modules are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gmn_opt.graph.tracing import attending
from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.labels import Axis, Label, SiteRef
from gmn_opt.graph.tracing.marks import NOBODY, NOTHING, Mark, Uses, join
from gmn_opt.graph.tracing.operators import NONLINEAR
from gmn_opt.graph.tracing.record import Record, Use

if TYPE_CHECKING:
    from gmn_opt.graph.tracing.tracer import Tracer

PRODUCTS = frozenset({"linear", "conv"})
MULTIPLIES = frozenset({"mul", "multiply"})
DIVIDES = frozenset({"div", "true_divide"})
CHOOSES = frozenset({"topk", "sort", "max", "min", "argmax", "argmin", "argsort", "msort"})
LOOKS_UP = frozenset({"index", "_unsafe_index", "index_select", "gather", "take_along_dim"})
WRITES = frozenset({"index_add", "index_put", "_index_put_impl", "_unsafe_index_put", "index_copy",
                    "scatter", "scatter_add", "scatter_reduce"})  # fmt: skip
CONVOLUTIONS = frozenset({"convolution", "_convolution", "mkldnn_convolution"})
SIGMOIDS = frozenset({"sigmoid", "hardsigmoid"})


class Op(NamedTuple):
    """An operator that has been followed, and the uses that its rule recorded.

    ``labels`` are those of the inputs, from before where the operator writes to one of them.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    labels: list[Label | None]
    uses: range


class Flow:
    """Marks of all tensors of one pass; facts go to the uses and sites of the tracer's record."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.marks: dict[int, tuple[Tensor, Mark]] = {}
        self.readers: dict[int, set[int]] = {}
        self.alone: set[int] = set()
        self.routers: set[int] = set()
        self.experts: set[int] = set()
        self.results: list[Uses] = []

    @property
    def record(self) -> Record:
        """What the tracer records."""
        return self.tracer.record

    def mark(self, tensor: Tensor) -> Mark:
        """The mark of a tensor."""
        return self.marks.get(id(tensor), (tensor, NOTHING))[1]

    def put(self, tensor: Tensor, mark: Mark) -> None:
        """Mark a tensor."""
        if mark != NOTHING or id(tensor) in self.marks:
            self.marks[id(tensor)] = tensor, mark

    def add_parameter(self, tensor: Tensor, index: int) -> None:
        """Mark a parameter by its number."""
        self.put(tensor, Mark(params=frozenset({index})))

    def add_input(self, tensor: Tensor) -> None:
        """Mark an input of the model."""
        self.put(tensor, Mark(raw=True))

    def add_output(self, tensor: Tensor) -> None:
        """Remember what made an output of the model."""
        self.results.append(self.mark(tensor).made)

    # ------------------------------------------------------------------ one operator

    def follow(self, op: Op, writes: bool) -> None:
        """Mark the outputs of an operator and note what it says about parameters."""
        mark = self._made(op) if len(op.uses) else None
        marks = self._passed_on(op) if mark is None else [mark] * len(op.outputs)
        for tensor, found in zip(op.outputs, marks, strict=True):
            self.put(tensor, found)
            if writes:
                self._share(tensor, found)

    def _share(self, written: Tensor, mark: Mark) -> None:
        """Views of memory that was written to are made by the same products."""
        for other in self.tracer.relatives(written):
            old = self.mark(other)
            if other is not written and not old.params:
                self.put(other, old._replace(
                    made=old.made | mark.made, learned=old.learned or mark.learned,
                    raw=old.raw or mark.raw))  # fmt: skip

    def _is_parameter(self, tensor: Tensor) -> bool:
        known = self.tracer.labels.get(id(tensor))
        return known is not None and known.kind == "parameter"

    def _split(self, tensors: Iterable[Tensor]) -> tuple[list[Mark], list[Mark]]:
        """Marks of parameters, and of all other tensors."""
        sides: tuple[list[Mark], list[Mark]] = [], []
        for tensor in tensors:
            mark = self.mark(tensor)
            sides[not (mark.params and self._is_parameter(tensor))].append(mark)
        return sides

    def _made(self, op: Op) -> Mark | None:
        """The mark of a product of parameters and activations; None for other uses of them."""
        params, acts = self._split(op.inputs)
        read = join(acts)
        used = frozenset(i for p in params for i in p.params)
        lookup = next((p.lookup for p in params if p.lookup), "")
        made: set[int] = set()
        inner = bool(op.outputs) and self._is_parameter(op.outputs[0])
        for number in op.uses:
            use = self.record.uses[number]
            use.parameters |= used
            if lookup and not (use.kind in PRODUCTS and lookup == "position"):
                use.facts.add(lookup)
            if use.kind == "embedding":
                use.facts |= self._how_indexed(op.args[1])
                made.add(number)
            elif use.kind == "bias" and _along_positions(use):
                use.facts.add("position")
            elif use.kind in PRODUCTS:
                made.add(number)
                self._read(number, use, read, inner)
        if inner:
            return Mark(params=used, lookup=lookup)
        if not made:
            return None
        return Mark(frozenset(made), learned=True, routed=read.routed)

    def _read(self, number: int, use: Use, read: Mark, inner: bool) -> None:
        if inner:
            use.facts.add("inner")
            return
        if read == NOTHING:
            use.facts.add("constant")
        if len(read.made) == 1:
            self.alone |= read.made
        for other in read.made:
            self.readers.setdefault(other, set()).add(number)
        if read.raw and not read.learned:
            use.facts.add("input")
        if read.attended is not None:
            use.facts.add("attended")
            use.heads = read.attended
        if read.routed:
            self.experts.add(number)

    def _how_indexed(self, index: Tensor) -> set[str]:
        """What the rows of a table stand for, by what chooses them."""
        mark = self.mark(index)
        if mark.raw or mark.learned:
            return {"looked up"}
        if mark.counts or index.device.type == "meta" or _differs(index):
            return {"position"}
        return set()

    def _passed_on(self, op: Op) -> list[Mark]:
        base = op.name.rstrip("_") or op.name
        params, acts = self._split(op.inputs)
        if op.name in CONVOLUTIONS and params:
            self._convolved(params)
        if op.name == "arange":
            return [Mark(counts=True) for _ in op.outputs]
        if base in LOOKS_UP:
            return [self._looked_up(op, acts)]
        if base in CHOOSES:
            return self._chosen(op, join(acts))
        both = join(acts)
        if params and (not acts or self._is_parameter(op.outputs[0])):
            both = join(params)
            self._scalings(op)
        elif params and any(self.record.uses[n].kind == "other" for n in op.uses):
            both = both._replace(learned=True)
        return [self._plain(op, base, acts, both, tensor) for tensor in op.outputs]

    def _plain(self, op: Op, base: str, acts: list[Mark], both: Mark, out: Tensor) -> Mark:
        """Operators that hand tensors on, alone or with others."""
        if not (out.is_floating_point() or out.is_complex()):
            whole = both.raw and out.dtype.is_signed and "cum" not in base
            counts = both.counts or "cum" in base
            return Mark(chosen=both.chosen, raw=whole and not both.learned, counts=counts,
                        params=both.params)  # fmt: skip
        axes = attending.moved_scores(both.scores, op.name, op.args, op.inputs, out)
        both = both._replace(scores=axes)
        if base in NONLINEAR:
            return both._replace(nonlinear=base)
        if base in ("_softmax", "softmax", "_safe_softmax") and not both.scores:
            label = self.tracer.labels.get(id(op.args[0]))
            if label is not None and label.axes and refs(label.axes[op.args[1]]):
                return both._replace(weights=both.made)
        if base in ("bmm", "mm", "baddbmm"):
            return self._contracted(op, acts, both, out)
        if base in MULTIPLIES | DIVIDES and len(acts) > 1:
            both = self._weighed(acts, both)
            if base in MULTIPLIES:
                both = both._replace(nonlinear=self._gate(op))
        if base in WRITES:
            self.routers |= both.chosen
            both = both._replace(routed=False, chosen=NOBODY, weights=NOBODY)
        return both._replace(chosen=NOBODY) if base == "where" else both

    def _scalings(self, op: Op) -> None:
        """A small parameter times a large one, as in a weight norm, is a scale."""
        size = op.outputs[0].numel()
        large = {i for t in op.inputs if t.numel() == size for i in self.mark(t).params}
        small = {i for t in op.inputs if t.numel() < size for i in self.mark(t).params}
        if large and len(op.inputs) > 1:
            self.record.scalings |= small - large

    def _convolved(self, params: list[Mark]) -> None:
        """A convolution that could not be followed is one nevertheless."""
        self.record.uses.append(Use("conv", [], parameters={i for p in params for i in p.params}))

    def _looked_up(self, op: Op, acts: list[Mark]) -> Mark:
        table, *where = op.inputs
        source = self.mark(table)
        chosen = join(self.mark(w) for w in where).chosen
        self.routers |= chosen
        if source.params and self._is_parameter(table):
            how = {"expert"} if chosen else set().union(*map(self._how_indexed, where))
            return source._replace(lookup=min(how, default=""))
        if not op.outputs[0].is_floating_point():
            return source._replace(chosen=source.chosen | chosen)
        scores = attending.moved_scores(source.scores, op.name, op.args, [table], op.outputs[0])
        source = source._replace(scores=scores)
        if chosen and (source.weights or source.made) <= chosen:
            return source._replace(weights=chosen)
        return source._replace(routed=source.routed or bool(chosen))

    def _chosen(self, op: Op, source: Mark) -> list[Mark]:
        by = source.made | source.chosen
        return [
            source._replace(weights=source.weights or source.made, scores=())
            if tensor.is_floating_point()
            else Mark(chosen=by)
            for tensor in op.outputs
        ]

    def _weighed(self, acts: list[Mark], both: Mark) -> Mark:
        """Scores of a router times what it weighs."""
        by = [a for a in acts if a.weights or a.chosen]
        rest = [a for a in acts if a.learned and not (a.weights or a.chosen)]
        if by and rest:
            self.routers.update(u for a in by for u in a.weights | a.chosen)
            self.experts.update(u for a in rest for u in a.made)
            return both._replace(weights=NOBODY, chosen=NOBODY, routed=False)
        return both

    def _gate(self, op: Op) -> str:
        """An activated tensor times another one, neuron by neuron; what the product counts as."""
        kinds = [self.mark(t).nonlinear for t in op.inputs]
        either = next((k for k in kinds if k), "")
        sharp = [k in SIGMOIDS for k in kinds]
        if len(kinds) != 2 or (all(kinds) and sharp[0] == sharp[1]) or not either:
            return either
        at = 0 if kinds[0] and not (kinds[1] and sharp[1]) else 1
        gate, other = op.labels[at], op.labels[1 - at]
        if gate is None or other is None:
            return either
        for a, b in zip(reversed(gate.axes), reversed(other.axes), strict=False):
            mine, theirs = refs(a), refs(b)
            if mine & theirs:
                return "product"
            if mine and theirs:
                attending.note(mine, "gate")
                either = ""
        return either

    def _contracted(self, op: Op, acts: list[Mark], both: Mark, out: Tensor) -> Mark:
        """A product of two activations: scores of an attention, or what they are taken for."""
        both = self._weighed(acts, both)
        left, right = op.args[-2:] if op.name != "baddbmm" else op.args[1:3]
        a, b = (self.tracer.labels.get(id(t)) for t in (left, right))
        if a is None or b is None or len(a.axes) < 2 or len(b.axes) < 2:
            return both
        one, two = self.mark(left), self.mark(right)
        new = both._replace(scores=(), contexts=(), nonlinear="")
        done = attending.attend(a, b, one.scores, two.scores, one.contexts, two.contexts)
        if done is not None:
            return new._replace(attended=done)
        scores, contexts = attending.begin(a, b, out.dim())
        return new._replace(scores=scores, contexts=contexts)

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """Note what is known only when all is read: output layers, routers, experts."""
        uses = self.record.uses
        for made in self.results:
            if not any(self.readers.get(n) for n in made):
                for n in made - self.routers:
                    uses[n].facts.add("output")
        self._inner_experts()
        for n in self.routers:
            uses[n].facts.add("router")
        for n in self.experts - self.routers:
            uses[n].facts.add("expert")
        share_facts(self.record, self.alone)

    def _inner_experts(self) -> None:
        """What only experts read is a part of an expert."""
        grown = True
        while grown:
            more = {
                n for n, found in self.readers.items()
                if n not in self.experts | self.routers and found and found <= self.experts
            }  # fmt: skip
            self.experts |= more
            grown = bool(more)


def refs(axis: Axis) -> set[SiteRef]:
    """The neurons that an axis runs over, those of joined parts each for themselves."""
    return set(attending.refs_of(axis))


def _differs(tensor: Tensor) -> bool:
    """Whether the elements of a constant differ."""
    with torch._C.DisableTorchFunction():
        return bool((tensor != tensor.flatten()[:1]).any())


def _along_positions(use: Use) -> bool:
    """Whether what is added has several axes, and one of them runs over no neurons."""
    axes = [p.activation for p in use.pairs if sets.size_of(lab.sets_of(p.activation)) > 1]
    return len(axes) > 1 and not all(map(_are_neurons, axes))


def _are_neurons(axis: Axis) -> bool:
    """Whether an axis runs over neurons, in all of its parts."""
    legs = [leg for leg in lab.expand_axis(axis) if leg.set.size > 1]
    return all(
        all(map(_are_neurons, leg.parts)) if leg.parts
        else leg.site is not None and leg.site.site.kind == "hidden"
        for leg in legs
    )  # fmt: skip


def share_facts(record: Record, alone: set[int]) -> None:
    """Neurons that are sums of several products hand their facts on to all of these.

    What is read ``alone``, before anything is added to it, is no such summand: it is the beginning
    of a residual stream.
    """
    sites = {g.site.site for n in alone for p in record.uses[n].pairs if p.role == "dst"
             for g in p.activation if g.site is not None}  # fmt: skip
    pairs = [
        (a, b) for a, b, kind in record.links
        if kind == "residual" and not {a.site, b.site} & sites and a.site.kind == b.site.kind
    ]  # fmt: skip
    for _ in range(2):
        for a, b in pairs:
            if a.site.name == b.site.name and a.offset != b.offset:
                continue  # a recurrent layer's own neurons, of other gates
            for x, y in ((a, b), (b, a)):
                moved = {f._replace(offset=f.offset - x.offset + y.offset) for f in x.site.facts}
                y.site.facts |= moved


__all__ = ["Flow", "Op"]
