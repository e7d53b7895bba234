"""What runs inside the pods of a Windlass run: agent, training, checkpoints, data."""
