"""What `explain --cluster` says of nodes and of what happened there."""

from __future__ import annotations

from datetime import UTC, datetime

from modelcache.cli.explainfleet import _Event, _lately, _of_nodes, _verdict
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sums import Order, rows, sorted_rows
from modelcache.cli.output import Said
from modelcache.errors import Reason
from tests.unit.cli.nodes.samples import failing, fleet, ready, status

LONG = "there is no org/m at https://huggingface.co, or it is private: set HF_TOKEN or secretName"


def test_a_long_sentence_is_said_of_one_node_and_the_others_refer_to_it() -> None:
    update = ready("m", reason=Reason.NOT_FOUND, message=LONG, attempts=1)
    look = fleet(
        n1=status(ready("m")), n2=status(failing("m", LONG)), n3=status(failing("m", LONG)),
        n4=status(update), n5=status(failing("m", "short")), n6=status(failing("m", "short")),
    )  # fmt: skip
    here = sorted_rows(rows(look, Rates()), Order.URGENCY)
    said = Said()
    assert _of_nodes(look, here, said) == [
        ("not on", f"n2: Failed, AuthFailed: {LONG}"),
        ("not on", "n3: Failed, AuthFailed: as on n2"),
        ("not on", "n5: Failed, AuthFailed: short"),
        ("not on", "n6: Failed, AuthFailed: short"),
        ("failing", "n4: Ready, update failing, NotFound: as on n2"),
        ("ready on", "n4, n1"),
    ]
    assert _verdict("m", {}, here) == "m is ready on 2 of the 6 nodes that it selects."
    at = datetime.now(UTC).isoformat()
    events = [
        _Event(at, "Node n2", "ModelAuthFailed", f"m: {LONG}", 1),
        _Event(at, "Node n9", "ModelAuthFailed", f"m: another {LONG}", 1),
        _Event(at, "Node n9", "ModelAuthFailed", f"m: another {LONG}", 1),
    ]
    assert [line.partition(": ")[2] for _, line in _lately("m", events, "", said)] == [
        "ModelAuthFailed: m: as on n2",
        f"ModelAuthFailed: m: another {LONG}",
        "ModelAuthFailed: m: the same",
    ]
