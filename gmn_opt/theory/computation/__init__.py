"""Computation graphs of small networks, and their automorphisms.

Where a parameter graph has one edge per parameter, the computation graph (Lim et al. 2023,
arXiv 2312.04501, section 2) has one edge per *use*: a convolution is unrolled over all positions,
a layer that is applied three times occurs three times. It is far too large for real networks, and
here for theory: the paper's automorphisms are permutations of its neurons that keep inputs,
outputs and constants in place and respect which edges share a parameter. Each moves parameters,
without changing the function. The tests enumerate them by brute force on tiny networks, and find
exactly the group that :meth:`ParameterGraph.random_symmetry` draws from.

Beyond the paper, activation functions are nodes of their own (with one incoming edge), and so are
products and maxima of activations. Norms, softmax and attention are written out in these. Running
statistics are carried by edges as parameters are, so that they move with their channels. Sharing
is kept within tensors: an exchange of two parallel layers of the same shape, as a whole, is not
counted as an automorphism.

Where the two groups differ:

- Products have no order. The two halves of a gate without an activation (``a * b``) may be
  exchanged neuron by neuron, and so may queries and keys of attention with one token, if one
  tensor holds both. These automorphisms are true symmetries; a parameter graph, which knows its
  halves and its queries by name, does not have them.
- The graph is that of inputs of one size. Parameters that these never use (a kernel's border over
  padding alone) are on no edge, and stay in place.
"""

from gmn_opt.theory.computation.expander import MAX_NODES, computation_graph
from gmn_opt.theory.computation.structure import Automorphism, ComputationGraph, Edge

__all__ = ["MAX_NODES", "Automorphism", "ComputationGraph", "Edge", "computation_graph"]
