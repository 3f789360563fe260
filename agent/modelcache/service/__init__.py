"""The daemon: guarded tasks, the reconciler, reports, endpoints. `agent.Agent` composes them."""
