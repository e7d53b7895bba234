"""How model, gradients and optimiser are spread over ranks: DDP, FSDP, DeepSpeed."""
