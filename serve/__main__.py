"""`python -m serve`: the server on this machine, by itself."""

from __future__ import annotations

import sys

from serve.cli import main

if __name__ == "__main__":
    sys.exit(main())
