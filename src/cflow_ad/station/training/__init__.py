"""Training jobs: each is a process of its own, which a restart of the service does not touch."""
