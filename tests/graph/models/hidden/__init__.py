"""Models that hide from a trace: results in odd containers, state, modes, memory, threads.

Every one is a :class:`Hidden` with a body of its own; ``read`` gives the tensors of its output,
which no symmetry may change. ``spaces`` is the number of free index sets at least to be found.
"""

from tests.graph.models.hidden.base import Case as Case
from tests.graph.models.hidden.base import Hidden as Hidden
from tests.graph.models.hidden.memory import MEMORY as MEMORY
from tests.graph.models.hidden.modes import MODES as MODES
from tests.graph.models.hidden.outputs import OUTPUTS as OUTPUTS
from tests.graph.models.hidden.state import STATE as STATE
from tests.graph.models.hidden.unseen import UNSEEN as UNSEEN

HIDDEN = [*OUTPUTS, *STATE, *MODES, *MEMORY, *UNSEEN]
