"""What the loop asks the running server, by HTTP as any client would."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from ndd.data.decisions import DecisionStore
from ndd.types import ImageId, Verdict, image_id
from pipelines.album import Album

__all__ = ["Asked"]

_KINDS = (Verdict.DUPLICATE, Verdict.DISTINCT)


class Asked:
    """A server at an address, and the key to it. Methods raise URLError."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def digests(self) -> Mapping[str, str]:
        """Of the model that answers: embedding and scorer."""
        said: Mapping[str, str] = self._ask("/v1/model")["digests"]
        return said

    def obeyed(self, album: Album, store: DecisionStore) -> str:
        """A sentence: of how many decided pairs of the album the server says what was decided."""
        bytes_of = {
            image_id(content): content for content in ((album.root / i.image).read_bytes() for i in album.images)
        }
        obeyed, against, decided = 0, 0, 0
        for decision in store.current().values():
            two = [bytes_of.get(ImageId(id)) for id in (decision.left_id, decision.right_id)]
            if decision.verdict not in _KINDS or None in two:
                continue
            inline = {
                name: {"base64": base64.b64encode(content or b"").decode()}
                for name, content in zip("ab", two, strict=True)
            }
            said, word = self._ask("/v1/compare", inline), decision.verdict is Verdict.DUPLICATE
            decided += 1
            obeyed += said["duplicate"] == word
            against += said["duplicate"] == word != (said["score"] >= said["threshold"])
        return f"of {decided} decided pairs the server answers {obeyed} as was decided, {against} of them against its score"

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, headers=self._headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found
