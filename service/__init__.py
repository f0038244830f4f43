"""How a model is used: HTTP routes, batching, hosting, metrics, logs."""
