"""The yardstick of `bench serve`: FastAPI and uvicorn around the same detector, one request at a time, nothing else.

python -m pipelines.bench_serve_plain PORT MODEL INDEX
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["main"]


def main(port: int, model: str, index: str) -> None:
    """Serve /compare and /query until the process is ended."""
    import fastapi
    import uvicorn

    from ndd.detector import Detector
    from ndd.index.search import answer
    from ndd.index.store import IndexStore

    detector = Detector(model)
    store = IndexStore.open(Path(index), read_only=True)
    app = fastapi.FastAPI()

    # Resolved by hand: FastAPI cannot see this function's names through postponed annotations.
    def compare(a: object, b: object) -> dict[str, object]:
        return detector.answer(detector.compare(a.file.read(), b.file.read()))  # type: ignore[attr-defined]

    def query(image: object) -> dict[str, object]:
        return answer(detector, detector.search(store, detector.look(image.file.read()), k=10))  # type: ignore[attr-defined]

    compare.__annotations__ = {"a": fastapi.UploadFile, "b": fastapi.UploadFile}
    query.__annotations__ = {"image": fastapi.UploadFile}
    app.post("/compare", response_model=None)(compare)
    app.post("/query", response_model=None)(query)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
