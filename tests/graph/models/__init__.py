"""The models of the case table."""

from tests.graph.models.convolutional import *  # noqa: F403
from tests.graph.models.dense import *  # noqa: F403
from tests.graph.models.derived_weights import *  # noqa: F403
from tests.graph.models.experts import *  # noqa: F403
from tests.graph.models.recurrent import *  # noqa: F403
from tests.graph.models.sequence import *  # noqa: F403
from tests.graph.models.spatial import *  # noqa: F403
from tests.graph.models.traps import TRAPS as TRAPS
