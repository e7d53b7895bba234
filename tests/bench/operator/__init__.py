"""What the operator needs and how fast it is with many jobs, on a real control plane with played nodes."""
