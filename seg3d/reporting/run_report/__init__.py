"""The page of a run: one HTML file with its scores, curves, worst cases, warnings, digests and config.

``pieces`` reads the run folder, ``scores`` an evaluation; ``remarks``, ``badge`` and ``commands`` say what follows from
them; ``page`` writes the file. What imports matplotlib is imported from its own module, so nothing is imported here.
"""
