"""Pictures for people: cases with contours, learning curves, predictions on their own grid.

``figures`` and ``curves`` import matplotlib, so nothing is imported here.
"""
