"""Numbers, paths and evidence as a person reads them. Pure functions; no HTML here."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from ndd.types import Relation

__all__ = [
    "RELATIONS",
    "count_text",
    "evidence_text",
    "path_text",
    "relation_text",
    "score_text",
    "share_text",
    "size_text",
    "without_size",
]

RELATIONS: Mapping[Relation, tuple[str, str]] = {
    Relation.EXACT: ("Identical file", "the same bytes"),
    Relation.REENCODED: ("Re-saved copy", "the same picture in another format, quality or size"),
    Relation.EDITED: ("Edited copy", "cropped, turned, mirrored, recoloured or drawn over"),
    Relation.SCENE: ("Same scene", "another photograph of the same thing"),
}
"""Name and explanation of each relation."""

_PLURAL = {
    Relation.EXACT: "identical files",
    Relation.REENCODED: "re-saved copies",
    Relation.EDITED: "edited copies",
    Relation.SCENE: "pictures of the same scene",
}
SPACE = "\N{NO-BREAK SPACE}"

Size = tuple[int, int]


def count_text(number: int) -> str:
    """12345 → 12,345."""
    return f"{number:,}"


def relation_text(relation: Relation, number: int) -> str:
    """The name of a relation in a sentence, for so many pictures: "edited copies"."""
    if relation is Relation.SCENE and number == 1:
        return "picture of the same scene"
    return RELATIONS[relation][0].lower() if number == 1 else _PLURAL[relation]


def size_text(number: int) -> str:
    """Bytes in decimal units, as file managers show them: 3200000 → 3.2 MB."""
    if number < 1000:
        return f"{number}{SPACE}B"
    value = float(number)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.0f}{SPACE}{unit}" if value >= 99.5 else f"{value:.1f}{SPACE}{unit}"
    return f"{value:,.0f}{SPACE}TB"


def share_text(share: float) -> str:
    """0.62 → 62 %."""
    return f"{100 * share:.0f}{SPACE}%"


def score_text(score: float) -> str:
    """A probability in per cent, rounded down so that 100 % is said of certainty alone: 0.99987 → 99.9 %."""
    if not math.isfinite(score):
        return "–"
    return f"100{SPACE}%" if score >= 1.0 else f"{math.floor(round(score * 1000, 6)) / 10:.1f}{SPACE}%"


def path_text(path: str) -> str:
    """A path that cannot deceive: control and direction characters as escapes, undecodable bytes percent-encoded."""
    return path if path.isprintable() else "".join(map(_visible, path))


def _visible(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # what os.fsdecode makes of a byte that is not UTF-8
        return f"%{code - 0xDC00:02X}"
    if not character.isprintable() and unicodedata.category(character) != "Zs":
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def evidence_text(evidence: Mapping[str, Any], *, copy_is_left: bool, left: Size, right: Size, other: str) -> str:
    """What was seen, from the copy's side, in one line: "214 keypoints agree · mirrored · shows 62 % of the kept picture".

    evidence: as in pairs.parquet; unknown keys are passed over. left, right: (width, height) of the two pictures.
    other: what to call the picture that is not the copy.
    """
    said = {"duplicate": "you said: duplicates", "distinct": "you said: not duplicates"}
    parts = [said[str(evidence["decision"])]] if str(evidence.get("decision")) in said else []
    if "sha256" in evidence:
        return " · ".join([*parts, "every byte is the same"])
    inliers = _number(evidence, "inliers")
    if inliers:
        parts.append(f"{inliers:,.0f} keypoints agree")
        if evidence.get("mirrored") is True:
            parts.append("mirrored")
        turned = _turn(evidence.get("transform"), left, right)
        parts += [f"turned by {turned:.0f}°"] if turned is not None and turned > 2.5 else []
        own, others = ("overlap_left", "overlap_right") if copy_is_left else ("overlap_right", "overlap_left")
        shown, taken = _number(evidence, others), _number(evidence, own)
        parts += [f"shows {share_text(shown)} of {other}"] if 0 < shown < 0.95 else []
        parts += [f"{share_text(1 - taken)} of it is new"] if 0 < taken < 0.95 else []
    elif "hash_bits" in evidence:
        parts.append(f"perceptual hashes differ in {_number(evidence, 'hash_bits'):.0f} of 256 bits")
    return " · ".join(parts)


def _number(evidence: Mapping[str, Any], name: str) -> float:
    value = evidence.get(name)
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok and value is not None else 0.0


def _turn(transform: Any, left: Size, right: Size) -> float | None:
    """Degrees, 0…180, that the middle of one picture is turned against the other; a flip is undone first."""
    try:
        matrix = np.asarray(transform, np.float64)
    except (TypeError, ValueError):
        return None
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    x, y, w = matrix @ (0.5, 0.5, 1.0)
    if abs(w) < 1e-9:
        return None
    jacobian = (matrix[:2, :2] - np.outer((x / w, y / w), matrix[2, :2])) / w
    jacobian = np.diag(right) @ jacobian @ np.diag([1 / max(side, 1) for side in left])
    if np.linalg.det(jacobian) < 0:
        jacobian = jacobian @ np.diag([-1.0, 1.0])
    return abs(math.degrees(math.atan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])))


def without_size(reason: str, *, width: int, height: int, format: str) -> str:
    """A reason of `ndd.keep` without the size and the format, for a place that shows both already."""
    size = re.escape(f"{width}×{height}")
    return re.sub(rf"{size}( {re.escape(format)})?, ", "", reason, count=1)
