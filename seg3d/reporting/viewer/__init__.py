"""Viewer pages: one HTML file that shows a case in a browser, without a network.

>>> from seg3d.reporting.viewer import viewer_page  # doctest: +SKIP
"""

from seg3d.reporting.viewer.page import SHOWN_TURNED, viewer_page

__all__ = ["SHOWN_TURNED", "viewer_page"]
