"""The larger commands of `service`, one a file."""
