"""The shared vocabulary: kinds, contract between operator and pods, CRD generator.

Imports pydantic and the standard library only. Everything else in Windlass may import it.
"""
