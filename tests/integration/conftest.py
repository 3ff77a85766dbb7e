"""Fixtures that several modules share."""

from tests.integration.report_pages import browser, report, watched
from tests.integration.review_studio import album, desk, found, studio

__all__ = ["album", "browser", "desk", "found", "report", "studio", "watched"]
