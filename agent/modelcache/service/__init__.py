"""The daemon: guarded tasks, the reconciler, reports and endpoints. `agent.Agent` puts it together."""
