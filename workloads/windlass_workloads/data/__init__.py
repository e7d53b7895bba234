"""From the files that a job names to the batches that its ranks train on.

Sources are resolved (sources, remote), read row by row (read), rendered and tokenised (chat), packed (pack), written
as arrays once (prepare) and visited in an order that is a pure function of the seed (order). Imports no torch.
"""
