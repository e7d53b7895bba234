"""The corpus stage beside datatrove's."""
