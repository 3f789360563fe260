"""Nodes as the status page tells of them: a quiet one, a busy one, and one that needs help.

They are made up, and what is said of them isn't: reports come from what plans and describes, events
from what tells of them. So no test and no picture shows what an agent can't say.
"""

from tests.support.pages.models import NOW
from tests.support.pages.nodes import facts, node
from tests.support.pages.stories import EMPTY, STARTING, busy, failing, many, well, with_names

__all__ = ["EMPTY", "NOW", "STARTING", "busy", "facts", "failing", "many", "node", "well"]
__all__ += ["with_names"]
