"""Decisions as CSV and Parquet: what is imported, and which line of what is not."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndd.data.decisions import DecisionStore
from ndd.errors import InputError, NddError, SchemaError, UsageError
from ndd.types import Decision, Draw, Relation, Verdict
from tests.ndd.data.builders import EPOCH, decision, ends


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "decisions")


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
any_decision = st.builds(
    decision,
    st.integers(0, 3),
    st.integers(4, 6),
    st.sampled_from(Verdict),
    relation=st.none() | st.sampled_from(Relation),
    reviewer=text.filter(str.strip),
    time=st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.timezones()).map(
        lambda t: t.astimezone(UTC)
    ),
    draw=st.sampled_from(Draw),
    p_draw=st.floats(0, 1, exclude_min=True),
    source=text.filter(str.strip),
    embedding_digest=text,
    supersedes=st.none() | text.filter(bool),
)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(answers=st.lists(any_decision, max_size=6, unique_by=lambda d: d.decision_id))
def test_export_and_import_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, answers: list[Decision]
) -> None:
    place = tmp_path_factory.mktemp("x")
    store, other = DecisionStore(place / "a"), DecisionStore(place / "b")
    assert store.extend(answers) == len(answers)
    assert store.export(place / f"all{suffix}") == len(answers)
    assert other.import_from(place / f"all{suffix}") == len(answers)
    assert other.import_from(place / f"all{suffix}") == 0
    assert other.load() == sorted(answers, key=lambda d: (d.time, d.decision_id))


def csv_of(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


BY_HAND = {
    **ends("a", "b"),
    "verdict": "duplicate",
    "relation": "",
    "reviewer": "ada",
    "time": "2026-11-22T10:00:00+01:00",
    "embedding_digest": "",
    "scorer_digest": "",
    "draw": "audit",
    "p_draw": "0.5",
    "source": "spreadsheet",
    "supersedes": "",
}


def test_a_table_made_by_hand_is_imported(store: DecisionStore, tmp_path: Path) -> None:
    """No ids to compute; saved by a spreadsheet with a byte order mark and CRLF."""
    path = csv_of(tmp_path / "hand.csv", [dict(reversed(BY_HAND.items()))])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert b"\r\n" in path.read_bytes()
    assert store.import_from(path) == 1
    (found,) = store.load()
    assert (found.verdict, found.relation, found.draw, found.p_draw, found.supersedes) == (
        Verdict.DUPLICATE,
        None,
        Draw.AUDIT,
        0.5,
        None,
    )
    assert found.time == datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"verdict": "same"}, "column 'verdict': 'same' is not one of duplicate, distinct, unsure, withdrawn"),
        ({"relation": "twin"}, "column 'relation'"),
        ({"draw": ""}, "column 'draw'"),
        ({"p_draw": "0"}, "column 'p_draw'"),
        ({"p_draw": "nan"}, "column 'p_draw'"),
        ({"p_draw": "1,5"}, "column 'p_draw'"),
        ({"time": "2026-11-22T10:00:00"}, "column 'time'.*time zone"),
        ({"time": "yesterday"}, "column 'time'.*ISO 8601"),
        ({"left_id": "IMG_1.jpg"}, "column 'left_id'"),
        ({"left_id": BY_HAND["right_id"], "right_id": BY_HAND["left_id"]}, "column 'right_id'.*id order"),
        ({"left_id": BY_HAND["right_id"]}, "column 'right_id'"),
        ({"reviewer": " "}, "column 'reviewer'"),
        ({"pair_id": "0" * 64}, "column 'pair_id'"),
        ({"decision_id": "0" * 32}, "column 'decision_id'"),
    ],
)
def test_one_bad_row_names_its_line_and_nothing_is_imported(
    store: DecisionStore, tmp_path: Path, changes: dict[str, str], problem: str
) -> None:
    right = decision(time=datetime.fromisoformat(BY_HAND["time"]), draw=Draw.AUDIT, source="spreadsheet")
    good = BY_HAND | {name: str(getattr(right, name)) for name in ("pair_id", "decision_id") if name in changes}
    path = csv_of(tmp_path / "bad.csv", [good, good | changes])
    with pytest.raises(SchemaError, match=rf"bad\.csv, line 3, {problem}"):
        store.import_from(path)
    assert store.load() == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1: column 'left_id' is missing"),
        (b"left_id,verdict\n", "line 1: column 'right_id' is missing"),
        (",".join([*BY_HAND, "p_drawn"]).encode() + b"\n", "line 1: unexpected column 'p_drawn'"),
        (",".join([*BY_HAND, "verdict"]).encode() + b"\n", "line 1: unexpected column 'verdict'"),
        (",".join(BY_HAND).encode() + b"\na,b\n", "line 2: 2 cells under 12 columns"),
        (",".join(BY_HAND).encode() + b'\n"a', "line 2"),
        (",".join(BY_HAND).encode() + b"\na\n\xff\xfe", "line 3: not UTF-8"),
    ],
)
def test_what_is_no_table_of_decisions(store: DecisionStore, tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(SchemaError, match=problem):
        store.import_from(tmp_path / "bad.csv")


def test_parquet_rows_and_columns_are_checked_too(store: DecisionStore, tmp_path: Path) -> None:
    typed = BY_HAND | {"time": datetime(2026, 1, 1, tzinfo=UTC), "p_draw": 0.5, "relation": None, "supersedes": None}
    columns = {name: [value, value] for name, value in typed.items()}

    def imported(**changes: Any) -> int:
        pq.write_table(pa.table(columns | changes), tmp_path / "p.parquet")
        return store.import_from(tmp_path / "p.parquet")

    for changes, problem in [
        ({"verdict": ["duplicate", "same"]}, "row 1, column 'verdict'"),
        ({"verdict": ["duplicate", None]}, "row 1, column 'verdict': no value"),
        ({"p_draw": ["0.5", "1"]}, "column 'p_draw' is string; expected double"),
        ({"time": pa.array([EPOCH.replace(tzinfo=None)] * 2, pa.timestamp("us"))}, "column 'time' is timestamp"),
        ({"color": [1, 2]}, "unexpected column 'color'"),
    ]:
        with pytest.raises(SchemaError, match=problem):
            imported(**changes)
    assert store.load() == []
    assert imported(reviewer=["ada", "bob"]) == 2


def test_other_kinds_of_files_are_refused(store: DecisionStore, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    for use in (store.import_from, store.export):
        with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
            use(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="no such file"):
        store.import_from(tmp_path / "absent.csv")
    with pytest.raises(NddError, match="cannot be written"):
        store.export(tmp_path / "absent" / "x.csv")
