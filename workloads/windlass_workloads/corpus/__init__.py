"""From a pile of text to documents that are clean and each there once, in stages that a kill cannot spoil.

`stages` says what follows what; `read`, `clean`, `rules`, `words` and `minhash` say what is done to a document;
`match` finds documents that others repeat; `tasks` runs the parts of a stage, each of which leaves a marker.
"""
