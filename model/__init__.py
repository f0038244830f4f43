"""What a model is: architectures, checkpoints, preprocessing, the registry, engines."""
