"""Checkpoints: a store with a fence, manifests written last, saves that do not stop training.

errors, store, incarnations, manifest, choose, retention and ledger import no torch: the agent uses
them. staging, state, deepspeed, writer and reader run inside ranks.
"""
