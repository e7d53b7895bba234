"""What a run will need, before it runs: shapes of models, memory of a rank, bytes of a checkpoint."""
