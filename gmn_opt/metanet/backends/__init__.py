"""Three ways to the same three functions: gather, edge_pass, pool.

gather (incidence, pairs, per_block) -> (dst, src): what nodes are as destinations before what they
are as sources, ``[..., N, 2 f]``, and what is added per block, ``[..., blocks, f]`` or None, to the
ends of blocks, ``[..., f, D]`` and ``[..., f, E]``. Node states are rows of channels, as linear
layers take them; the ends of blocks are channels first, as the pass over edges takes them.

pool (incidence, dst, src) -> (pairs, per_block): means at the ends of blocks back, in the same
shapes. See :mod:`gmn_opt.metanet.incidence`.

edge_pass (sizes, keep_edges, x, weight, residual, src, dst) -> (new, at_dst, at_src): with (D, E)
of every block in ``sizes``, the edges of all blocks in one tensor ``x`` [..., g, P], block after
block, each in its [D, E] form, and src, dst as above, for every block

    h = silu(W x + src + dst)         [..., f, D, E]
    new edge states = R x + h         (residual R None: the identity)
    at_dst = mean of h over E, at_src = mean of h over D

W and R are ``[f, g]``, or ``[..., blocks, f, g]``: one matrix per block. Without ``keep_edges`` the
new edge states are not made, and None.
"""
