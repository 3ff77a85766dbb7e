"""Decisions: what stands, what links, what is refused, and that nothing acknowledged is ever lost."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndd.data.decision_rows import COLUMNS
from ndd.data.decisions import DecisionStore, settle
from ndd.errors import InputError, NddError, SchemaError, StoreError, UsageError
from ndd.types import Decision, Draw, ImageId, Relation, Verdict, pair_id
from tests.ndd.data.builders import EPOCH, child_environment, decision, ends, image

DUPLICATE, DISTINCT, UNSURE, WITHDRAWN = Verdict


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "decisions")


def verdicts(*decisions: Decision) -> list[Verdict]:
    """The verdicts that stand, one for each pair."""
    return [d.verdict for d in settle(decisions).values()]


# --- the store ----------------------------------------------------------------------------------------------------


def test_what_is_appended_is_loaded_in_order_by_any_store(store: DecisionStore) -> None:
    full = decision(
        "c",
        "d",
        DISTINCT,
        relation=Relation.SCENE,
        reviewer='Zoë "z", 山田　太郎',
        time=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        draw=Draw.AUDIT,
        p_draw=0.1 + 0.2,
        source="label studio",
        supersedes="x" * 32,
    )
    assert store.append(full)
    assert store.append(decision())
    assert store.load() == DecisionStore(store.path.parent).load() == [full, decision()]
    assert [d.decision_id for d in store.load()] == [full.decision_id, decision().decision_id]


def test_reading_creates_nothing(store: DecisionStore, tmp_path: Path) -> None:
    assert (store.load(), store.current(), store.damage(), store.must_links()) == ([], {}, [], [])
    assert list(tmp_path.iterdir()) == []


def test_the_same_answer_is_stored_once(store: DecisionStore) -> None:
    elsewhere = decision(time=EPOCH.astimezone(timezone(timedelta(hours=-8))))  # the same moment, told in another zone
    assert [store.append(decision()), store.append(decision()), store.append(elsewhere)] == [True, False, False]
    assert DecisionStore(store.path.parent).extend([elsewhere, decision(at=1), decision(at=1)]) == 1
    assert store.load() == [decision(), decision(at=1)]


def test_the_log_is_a_csv_that_any_program_reads(store: DecisionStore) -> None:
    store.append(decision(reviewer="a, b"))
    with store.path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reviewer"] == "a, b"
    assert row["pair_id"] == pair_id(image("a"), image("b"))
    assert list(row) == [*COLUMNS, "check"]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"left_id": "a", "right_id": "b"}, "left_id"),
        ({"right_id": ImageId("g" * 64)}, "right_id"),
        ({"reviewer": ""}, "reviewer"),
        ({"reviewer": "two\nlines"}, "reviewer"),
        ({"source": "\udcff"}, "source"),
        ({"embedding_digest": "a\0b"}, "embedding_digest"),
        ({"supersedes": decision().decision_id}, "supersedes"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_with_it_is(
    store: DecisionStore, changes: dict[str, Any], column: str
) -> None:
    bad = dataclasses.replace(decision(), **changes)
    with pytest.raises(SchemaError, match=f"decision 1, column '{column}'"):
        store.extend([decision(at=1), bad])
    assert store.load() == []


def test_a_file_that_is_no_log_is_left_alone(store: DecisionStore) -> None:
    store.path.parent.mkdir()
    store.path.write_text("my,own,table\n1,2,3\n")
    for use in (store.load, store.damage, lambda: store.append(decision())):
        with pytest.raises(StoreError, match="not a log of ndd"):
            use()
    assert store.path.read_text() == "my,own,table\n1,2,3\n"


def test_a_line_of_a_newer_version_is_an_error_and_not_skipped(store: DecisionStore) -> None:
    """Passing over an answer that is whole but not understood could bring an older one back."""
    store.append(decision())
    line = store.path.read_bytes().splitlines()[1].rpartition(b",")[0].replace(b",duplicate,", b",undecided,")
    with store.path.open("ab") as file:
        file.write(line + b",%08x\n" % zlib.crc32(line))
    with pytest.raises(SchemaError, match=r"decisions.csv, line 3, column 'verdict': 'undecided'"):
        store.load()


# --- what stands --------------------------------------------------------------------------------------------------


def test_the_newest_answer_of_a_reviewer_stands() -> None:
    assert verdicts(decision(at=2), decision(verdict=DISTINCT, at=1)) == [DUPLICATE]
    assert verdicts(decision(at=1), decision(verdict=DISTINCT, at=2)) == [DISTINCT]


def test_of_several_reviewers_the_newest_word_stands() -> None:
    ada, bob = decision(at=1), decision(verdict=DISTINCT, at=2, reviewer="bob")
    assert verdicts(ada, bob) == [DISTINCT]
    assert verdicts(ada, bob, decision(at=3)) == [DUPLICATE]


def test_withdrawing_takes_ones_own_word_back_and_no_other() -> None:
    old, ada, bob = decision(verdict=DISTINCT, at=0), decision(at=1), decision(verdict=UNSURE, at=2, reviewer="bob")
    gone = decision(verdict=WITHDRAWN, at=3)
    assert verdicts(old, ada, gone) == []  # the older answer does not come back
    assert verdicts(old, ada, bob, gone) == [UNSURE]
    assert verdicts(old, ada, gone, decision(verdict=DISTINCT, at=4)) == [DISTINCT]


def test_supersedes_voids_the_answer_of_somebody_else() -> None:
    old, wrong = decision(verdict=DISTINCT, at=0), decision(at=5)
    admin = decision(verdict=WITHDRAWN, at=6, reviewer="admin", supersedes=wrong.decision_id)
    assert verdicts(old, wrong, admin) == []
    early = decision(verdict=UNSURE, at=1, reviewer="bob", supersedes=wrong.decision_id)
    assert verdicts(old, wrong, early) == [UNSURE]  # void even though it is the newest


def test_ones_own_correction_wins_over_a_clock_set_back() -> None:
    wrong = decision(at=5)
    assert verdicts(wrong, decision(verdict=DISTINCT, at=1, supersedes=wrong.decision_id)) == [DISTINCT]


def test_supersedes_reaches_no_other_pair() -> None:
    other = decision("x", "y")
    both = settle([other, decision(supersedes=other.decision_id)])
    assert set(both) == {other.pair_id, decision().pair_id}


decisions = st.builds(
    decision,
    st.sampled_from("ab"),
    st.sampled_from("cd"),
    st.sampled_from(Verdict),
    at=st.integers(0, 3),
    reviewer=st.sampled_from(["ada", "bob"]),
)


@given(st.lists(decisions, max_size=12, unique_by=lambda d: d.decision_id), st.data())
def test_what_stands_depends_on_no_order(answers: list[Decision], data: st.DataObject) -> None:
    """Stores that exchanged their decisions by export and import agree."""
    earlier: list[str | None] = [None, *(a.decision_id for a in answers)]
    answers = [dataclasses.replace(a, supersedes=data.draw(st.sampled_from(earlier))) for a in answers]
    standing = settle(answers)
    assert standing == settle(data.draw(st.permutations(answers)))
    assert list(standing) == sorted(standing)
    assert WITHDRAWN not in {d.verdict for d in standing.values()}
    assert all(key == d.pair_id for key, d in standing.items())


def test_links_for_grouping(store: DecisionStore) -> None:
    store.extend(
        [
            decision("a", "b"),
            decision("a", "c", relation=Relation.REENCODED),
            decision("a", "d", relation=Relation.SCENE),
            decision("b", "c", DISTINCT),
            decision("b", "d", UNSURE),
            decision("c", "d", DISTINCT),
            decision("c", "d", WITHDRAWN, at=1),
        ]
    )

    def pairs(*names: str) -> list[tuple[str, str]]:
        return sorted((ends(*name)["left_id"], ends(*name)["right_id"]) for name in names)

    assert store.must_links() == pairs("ab", "ac")
    assert store.cannot_links() == pairs("bc", "ad")  # the same scene is no duplicate for a run that wants edits
    assert store.must_links(relation=Relation.SCENE) == pairs("ab", "ac", "ad")
    assert store.cannot_links(relation=Relation.SCENE) == pairs("bc")
    assert store.must_links(relation=Relation.EXACT) == pairs("ab")
    assert store.must_links([image("a"), image("c"), image("z")]) == pairs("ac")
    assert store.must_links([]) == store.cannot_links([]) == []


# --- crashes ------------------------------------------------------------------------------------------------------


def cut(tmp_path: Path, content: bytes) -> DecisionStore:
    """A store whose log is `content`."""
    place = tmp_path / "cut"
    place.mkdir(exist_ok=True)
    for leftover in place.iterdir():
        leftover.unlink()
    (place / "decisions.csv").write_bytes(content)
    return DecisionStore(place)


def test_a_log_cut_anywhere_keeps_every_earlier_line_and_goes_on(
    store: DecisionStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefixes of a real log, every one near the ends of lines, as a crash in the middle of a write leaves them."""
    caplog.set_level(logging.WARNING)
    answers = [decision(at=i, reviewer='a, "b"') for i in range(3)]
    store.extend(answers[:2])
    content = store.path.read_bytes()
    ends_of_lines = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends_of_lines) == 3  # header and two rows
    near = {end + i for end in (0, *ends_of_lines) for i in range(-12, 13)}
    for size in sorted(near & set(range(len(content) + 1)) | set(range(0, len(content), 17))):
        whole = max(0, sum(end <= size for end in ends_of_lines) - 1)
        torn = size > 0 and size not in ends_of_lines
        damaged = cut(tmp_path, content[:size])
        caplog.clear()
        assert damaged.load() == answers[:whole], size
        assert len(damaged.damage()) == torn, size
        assert damaged.append(answers[2])
        assert damaged.load() == DecisionStore(damaged.path.parent).load() == [*answers[:whole], answers[2]], size
        assert damaged.damage() == [], size
        aside = damaged.path.with_name("decisions.csv.damaged")
        assert aside.exists() == torn, size  # what was cut off is kept
        assert ("cut short by a crash" in caplog.text) == torn, size
        if torn:
            assert content[:size].endswith(aside.read_bytes()[:-1])


def test_a_tail_of_zeros_is_a_torn_tail(store: DecisionStore, tmp_path: Path) -> None:
    """After a power cut some file systems keep the new length without the bytes."""
    store.append(decision())
    damaged = cut(tmp_path, store.path.read_bytes() + bytes(5000))
    assert damaged.load() == [decision()]
    assert damaged.append(decision(at=1))
    assert damaged.damage() == []
    assert DecisionStore(damaged.path.parent).load() == [decision(), decision(at=1)]
    nothing = cut(tmp_path, bytes(300))
    assert nothing.load() == []
    assert nothing.append(decision())
    assert nothing.load() == [decision()]


def test_any_changed_byte_costs_its_line_alone_and_is_reported(store: DecisionStore, tmp_path: Path) -> None:
    answers = [decision(at=i) for i in range(3)]
    store.extend(answers)
    content = store.path.read_bytes()
    lines = content.splitlines(keepends=True)
    start = len(lines[0]) + len(lines[1])
    for at in range(start, start + len(lines[2]) - 1, 7):
        changed = bytearray(content)
        changed[at] ^= 1
        if changed[at] == ord("\n"):
            continue
        damaged = cut(tmp_path, bytes(changed))
        assert damaged.load() == [answers[0], answers[2]], at
        assert [d.line for d in damaged.damage()] == [3]
        assert damaged.append(decision(at=9))
        assert [d.line for d in damaged.damage()] == [3]  # still reported, and the line is still there
        assert damaged.path.read_bytes().startswith(bytes(changed))


def test_a_disk_that_is_full_adds_nothing(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(decision())
    before = store.path.read_bytes()
    write = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(StoreError, match="No space left on device"):
        store.append(decision(at=1))
    monkeypatch.undo()
    assert store.path.read_bytes() == before
    assert store.append(decision(at=1))
    assert len(store.load()) == 2


def test_short_writes_are_completed(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:10], offset))
    store.extend([decision(), decision(at=1)])
    assert DecisionStore(store.path.parent).load() == [decision(), decision(at=1)]


def test_an_append_is_on_disk_before_it_returns(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", spy)
    store.append(decision())
    log, directory = str(store.path), str(store.path.parent)
    assert (log, store.path.stat().st_size) in synced
    assert directory in [name for name, _ in synced]
    synced.clear()
    store.append(decision(at=1))
    assert synced == [(log, store.path.stat().st_size)]


KILLED = """
import itertools, sys
from ndd.data.decisions import DecisionStore
from tests.ndd.data.builders import decision
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
for i in itertools.count(int(sys.argv[2])):
    answer = decision(at=i)
    store.append(answer)
    print(answer.decision_id, flush=True)
"""


def test_killed_at_random_moments_no_acknowledged_decision_is_missing(store: DecisionStore) -> None:
    """SIGKILL while appending in a loop: all that was acknowledged is there, each once, and the store works on."""
    moments = random.Random(20261122)
    acknowledged: list[str] = []
    for i in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store.path.parent), str(i * 1_000_000)],
            stdout=subprocess.PIPE,
            env=child_environment(),
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        acknowledged += [child.stdout.readline().decode().strip() for _ in range(moments.randrange(30))]
        time.sleep(moments.uniform(0.0, 0.004))  # anywhere between and within the steps of an append
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.read().decode().split("\n")[:-1]  # a line cut short was not acknowledged
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        stored = [d.decision_id for d in store.load()]
        assert set(acknowledged) <= set(stored)
        assert len(stored) == len(set(stored)) <= len(acknowledged) + i + 1  # one in flight for each kill
        assert store.append(decision("probe", i))
        acknowledged.append(decision("probe", i).decision_id)
    assert len(acknowledged) > 50
    assert len(store.load()) == len(DecisionStore(store.path.parent).load())


def test_a_writer_waits_for_readers_and_for_writers_and_a_reader_for_writers(store: DecisionStore) -> None:
    store.append(decision())
    other = DecisionStore(store.path.parent)
    uses = {
        fcntl.LOCK_SH: [lambda: other.append(decision(at=1))],
        fcntl.LOCK_EX: [lambda: other.append(decision(at=2)), other.load],
    }
    for lock, waiting in uses.items():
        for use in waiting:
            thread = threading.Thread(target=use)
            with store.path.open("rb") as held:
                fcntl.flock(held, lock)
                thread.start()
                thread.join(0.2)
                assert thread.is_alive()
            thread.join()
    with store.path.open("rb") as held:  # readers share
        fcntl.flock(held, fcntl.LOCK_SH)
        assert store.load() == [decision(), decision(at=1), decision(at=2)]


WRITER = """
import sys
from ndd.data.decisions import DecisionStore
from tests.ndd.data.builders import decision
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(25):
    store.append(decision(at=i, reviewer=sys.argv[2]))
    store.append(decision("shared", i))
"""


def test_concurrent_writers_lose_nothing_and_repeat_nothing(store: DecisionStore) -> None:
    names = ["ada", "bob", "cyd", "dan"]
    command = [sys.executable, "-c", WRITER, str(store.path.parent)]
    children = [
        subprocess.Popen([*command, n], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment())
        for n in names
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    own = [decision("mine", i) for i in range(25)]
    writer = threading.Thread(target=lambda: [store.append(d) for d in own])
    writer.start()
    assert [child.communicate(b"go\n", timeout=120)[0] for child in children] == [b""] * 4
    writer.join()
    assert [child.returncode for child in children] == [0] * 4
    wanted = [decision(at=i, reviewer=n) for i, n in itertools.product(range(25), names)]
    wanted += [decision("shared", i) for i in range(25)] + own
    stored = store.load()
    assert len(stored) == len(wanted) == 150
    assert {d.decision_id for d in stored} == {d.decision_id for d in wanted}
    assert store.damage() == []


# --- CSV and Parquet ----------------------------------------------------------------------------------------------

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
        DUPLICATE,
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
