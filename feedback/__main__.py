"""`python -m feedback`."""

from __future__ import annotations

import sys

from feedback.cli import main

if __name__ == "__main__":
    sys.exit(main())
