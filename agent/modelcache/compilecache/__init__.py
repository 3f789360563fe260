"""Compile caches: what an engine compiled once, captured, and there before the next start needs it.

A *compile cache* is a directory tree that an engine writes while it starts (torch.compile, Triton,
FlashInfer ...) and reads when it starts again. It is code: whoever may write one runs commands in
every pod that is seeded from it.

| room | what it knows |
|---|---|
| `engines` | where each keeps its caches, what its log says, what a complete cache looks like |
| `keys` | what a cache was compiled for, and in which part two keys differ |
| `trees` | a directory tree on the disk: scanning, quiet, copying with its owner |
| `bundles` | a tree as an archive with a manifest, a signed statement, refusing hostile ones |
| `places` | where bundles are published: a directory, S3, GCS, a registry |
| `starts` | one start: seeding before, judging and capturing after; what a node holds |
| `pods` | the same beside an engine in a pod: the init container and the sidecar |

Imports go `pods → starts → places → bundles → engines | keys → trees`.
"""
