"""Following a start: what is waited for on this node."""

from __future__ import annotations

import pytest

from modelcache.compilecache.keys.parts import ParallelLayout
from modelcache.compilecache.starts.following import ranks_of
from tests.support.bundles import a_key


@pytest.mark.parametrize(
    ("args", "ranks"),
    [
        ((), 16),
        (("--max-model-len=8192", "--nnodes=2"), 8),
        (("--data-parallel-size-local=1",), 8),
        (("--data-parallel-size-local=1", "--nnodes=4"), 2),
        (("--nnodes=1:4",), 16),  # of torchrun: nobody knows how many
        (("--nnodes=64",), 1),
        (("--nnodes=0", "--", "--nnodes=2"), 16),
    ],
)
def test_the_ranks_of_this_node(args: tuple[str, ...], ranks: int) -> None:
    parallel = ParallelLayout(tensor=4, pipeline=2, data=2)
    assert ranks_of(a_key().model_copy(update={"parallel": parallel, "args": args})) == ranks
