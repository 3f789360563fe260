"""Desired state: the catalog's objects from files, read strictly, watched, last good state kept."""

from modelcache.catalog.documents import Document, read_documents
from modelcache.catalog.files import FileCatalog
from modelcache.catalog.problems import KINDS, ObjectKey, Problem, Severity
from modelcache.catalog.snapshot import Catalog

__all__ = [
    "KINDS",
    "Catalog",
    "Document",
    "FileCatalog",
    "ObjectKey",
    "Problem",
    "Severity",
    "read_documents",
]
