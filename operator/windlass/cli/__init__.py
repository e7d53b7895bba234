"""The `windlass` command, also installed as `kubectl windlass`."""
