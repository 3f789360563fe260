"""What monitors a fleet: Grafana dashboards, and the rules of Prometheus. Not part of the program.

`python -m dashboards` writes what is generated; a test compares it with what is committed.
"""
