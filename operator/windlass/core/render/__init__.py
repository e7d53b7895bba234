"""Rendering: pure functions from a job to Kubernetes objects. Nothing here decides whether to make them."""
