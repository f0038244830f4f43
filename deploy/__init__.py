"""What it takes to run hubel elsewhere: the compose file, Prometheus' files, the image's list of parts."""
