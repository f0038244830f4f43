"""The networks that hubel can build, one family a file."""
