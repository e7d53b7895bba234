"""What is optimised: each objective turns samples into tensors and tensors into a summed loss."""
