"""A real Kubernetes for the tests, without containers: etcd, API server, scheduler, controllers."""
