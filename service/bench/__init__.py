"""A load test of a running service, for its users: clients, arithmetic, pictures."""
