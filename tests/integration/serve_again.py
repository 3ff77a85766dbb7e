"""Serve like `python -m serve run`; each line of settings on stdin is deployed anew over what runs, and acknowledged.

python -m tests.integration.serve_again --port PORT NAME=VALUE …
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Until stdin is closed."""
    from serve.app import build
    from serve.local import serve_here

    _, port, *first = argv
    with serve_here(_settings(first), host="127.0.0.1", port=int(port), logs=False):
        from ray import serve  # not before: it reads its environment when it is imported

        for line in sys.stdin:
            serve.run(build(_settings([*first, *line.split()])), name="ndd", route_prefix="/")
            print("deployed", flush=True)


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    main(sys.argv[1:])
