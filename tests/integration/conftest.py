"""Fixtures of the browser tests."""

from tests.integration.report_pages import browser, report, watched

__all__ = ["browser", "report", "watched"]
