"""The agent's status page: what this node holds, does and lacks, for people with a browser."""

from modelcache.service.page.facts import Facts, ReadAhead
from modelcache.service.page.rendering import headers, page

__all__ = ["Facts", "ReadAhead", "headers", "page"]
