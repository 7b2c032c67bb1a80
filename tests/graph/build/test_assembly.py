"""From a record to blocks and groups: written by hand, without a model."""

from __future__ import annotations

from gmn_opt.graph import ParameterGraph
from gmn_opt.graph.build.assembly import assemble
from gmn_opt.graph.structure import DimRole
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.index_sets import IndexSet, segment
from gmn_opt.graph.tracing.labels import Axis, Label, Leg, Site, SiteRef
from gmn_opt.graph.tracing.record import Pair, Record, Use


def neurons(record: Record, name: str, kind: str, axis: Axis) -> Axis:
    """An axis as neurons of a site of its own."""
    site = Site(name, kind)
    record.sites.append(site)
    site.axis = tuple(Leg(leg.set, SiteRef(site)) for leg in axis)
    return site.axis


def parameter(record: Record, name: str, *sets: IndexSet) -> tuple[Axis, ...]:
    """Label a parameter with one index set per dim."""
    number = len(record.names)
    axes = tuple((Leg(s, None, ((number, dim, 0),)),) for dim, s in enumerate(sets))
    record.names.append(name)
    record.parameters.append(Label(axes, "parameter"))
    record.seen.append(axes)
    return axes


def linear(record: Record, name: str, out: IndexSet, source: Axis) -> Axis:
    """The use of a matrix, and the neurons that it makes."""
    rows, columns = parameter(record, name, out, source[0].set)
    made = neurons(record, name, "hidden", rows)
    roles: tuple[tuple[DimRole, Axis, Axis], ...] = (("src", columns, source), ("dst", rows, made))
    record.uses.append(Use("linear", [Pair(*r) for r in roles], {"fan_in": columns[0].set.size}))
    return made


def shapes(record: Record) -> dict[str, tuple[int, ...]]:
    labels = zip(record.names, record.parameters, strict=True)
    return {n: tuple(map(lab.axis_size, p.axes)) for n, p in labels}


def two_layers() -> tuple[Record, Axis]:
    record = Record()
    source = neurons(record, "input", "input", lab.new_axis(3, "model input"))
    hidden = linear(record, "up.weight", IndexSet(5), source)
    out = linear(record, "down.weight", IndexSet(2, "model output"), hidden)
    record.outputs.append(Label((out,)))
    return record, hidden


def ends(graph: ParameterGraph, tensor: str) -> list[tuple[str, str]]:
    return [
        (graph.groups[b.src].name, graph.groups[b.dst].name)
        for b in graph.blocks
        if b.tensor == tensor
    ]


def test_blocks_run_between_the_sites_that_met() -> None:
    record, _ = two_layers()
    graph = assemble(record, shapes(record), {"tied.weight": "up.weight"})
    assert ends(graph, "up.weight") == [("input", "up")]
    assert ends(graph, "down.weight") == [("up", "down")]
    assert {g.name: g.role for g in graph.groups} == {
        "input": "input", "up": "hidden", "down": "output",
    }  # fmt: skip
    assert [s.size for s in graph.spaces] == [5]
    assert graph.blocks[0].dims[0] == graph.blocks[1].dims[1]
    assert graph.blocks[0].roles == (("dst",), ("src",))
    assert graph.fixed_reasons == {
        "up.weight": ("", "model input"), "down.weight": ("model output", ""),
    }  # fmt: skip
    assert graph.aliases == {"tied.weight": "up.weight"}


def test_a_concatenation_falls_into_blocks() -> None:
    record, hidden = two_layers()
    whole = hidden[0].set
    assert segment([whole], [2, 3]) is not None
    graph = assemble(record, shapes(record), {})
    assert [s.size for s in graph.spaces] == [2, 3]
    assert ends(graph, "down.weight") == [("up[0:2]", "down"), ("up[2:5]", "down")]
    index = [b.index for b in graph.blocks if b.tensor == "down.weight"]
    assert index == [(range(2), range(2)), (range(2), range(2, 5))]


def test_a_parameter_without_a_use_stands_for_itself() -> None:
    record, _ = two_layers()
    parameter(record, "idle", IndexSet(4, "not read by the traced pass"))
    graph = assemble(record, shapes(record), {})
    block = graph.blocks[-1]
    assert (block.tensor, block.kind) == ("idle", "other")
    assert ends(graph, "idle") == [("idle", "idle out")]
    assert block.roles == (("kernel",),)


def test_running_statistics_belong_to_the_neurons_that_they_follow() -> None:
    record, hidden = two_layers()
    record.statistics["norm.running_mean"] = Label(((Leg(hidden[0].set),),), "constant")
    record.statistics["norm.other"] = Label(lab.new_axes([5]), "constant")
    graph = assemble(record, shapes(record), {})
    (block,) = graph.buffer_blocks
    assert block.tensor == "norm.running_mean"
    assert graph.groups[block.dst].name == "up"


def test_what_is_always_led_by_another_set_depends_on_it() -> None:
    """Dims per head: wherever they occur, the head occurs too."""
    record = Record()
    heads, dims, inputs = IndexSet(2), IndexSet(3), lab.new_axis(4, "model input")
    source = neurons(record, "input", "input", inputs)
    rows, columns = parameter(record, "q.weight", IndexSet(6), inputs[0].set)
    rows[0].set.factors = (heads, dims)
    made = neurons(record, "q.weight", "hidden", tuple(lab.expand_axis(rows)))
    record.uses.append(Use("linear", [Pair("src", columns, source), Pair("dst", rows, made)]))
    record.seen.append((made,))
    graph = assemble(record, shapes(record), {})
    head, dim = graph.spaces
    assert ((head.size, head.parents), (dim.size, dim.parents)) == ((2, ()), (3, (head.id,)))
    record.seen.append(((Leg(dims),),))  # a tensor without the head, such as a sum over heads
    assert all(not s.parents for s in assemble(record, shapes(record), {}).spaces)
