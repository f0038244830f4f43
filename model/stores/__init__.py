"""Where versions and states lie: a folder of this machine, or any address that fsspec knows."""
