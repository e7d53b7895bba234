"""`make bench-recovery`: what it costs when a rank, a pod or a checkpoint is lost, beside torchrun on the same work."""
