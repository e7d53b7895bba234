"""Pure rules about checkpoints, shared by the leading agent and the operator."""
