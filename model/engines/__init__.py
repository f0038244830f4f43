"""The runtimes that turn pixels into logits, behind one protocol."""
