"""Training: what a forked rank runs. tasks is the door, loop is the story, strategies say how ranks share the work."""
