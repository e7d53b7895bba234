"""Failures that are really caused, recorded once, and labelled: what the judgement of failures is measured on."""
