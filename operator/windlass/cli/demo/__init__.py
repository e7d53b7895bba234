"""`windlass demo`: the whole product in one command, on a real cluster, with every number measured."""
