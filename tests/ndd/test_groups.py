"""Groups: the rule of cohesion, people's decisions, and the same result however the input is cut."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndd.errors import InputError
from ndd.groups import Link, completions, group

LETTERS = "ABCDEFGHIJ"


def links(*pairs: str, score: float = 0.999) -> list[Link]:
    return [Link(pair[0], pair[1], score) for pair in pairs]


def clique(names: str, score: float = 0.999) -> list[Link]:
    return [Link(a, b, score) for a, b in itertools.combinations(names, 2)]


# ---- the rule


def test_nothing_linked_gives_no_group() -> None:
    assert group(["a", "b"], []) == []
    assert group([], []) == []


def test_groups_and_members_are_sorted() -> None:
    assert group(list("DCBA"), links("DC", "BA")) == [("A", "B"), ("C", "D")]


def test_an_original_with_copies_that_match_only_it_is_one_group() -> None:
    assert group(list("ABCDE"), links("CA", "CB", "CD", "CE")) == [tuple("ABCDE")]


def test_a_chain_of_strips_does_not_join_its_far_ends() -> None:
    groups = group(list("ABCDEF"), links("AB", "BC", "CD", "DE", "EF"))
    assert groups == [tuple("ABC"), tuple("DEF")]


def test_a_ring_of_four_is_one_group_and_a_ring_of_six_is_not() -> None:
    assert group(list("ABCD"), links("AB", "BC", "CD", "DA")) == [tuple("ABCD")]
    assert tuple("ABCDEF") not in group(list("ABCDEF"), links("AB", "BC", "CD", "DE", "EF", "FA"))


@pytest.mark.parametrize("false_link", ["AE", "AF", "DE", "DH"])
@pytest.mark.parametrize("score", [0.5, 0.9999])
def test_one_false_link_does_not_join_two_tight_clusters(false_link: str, score: float) -> None:
    given_links = [*clique("ABCD", 0.99), *clique("EFGH", 0.99), *links(false_link, score=score)]
    assert group(list("ABCDEFGH"), given_links) == [tuple("ABCD"), tuple("EFGH")]


@pytest.mark.parametrize("score", [0.5, 0.9999])
def test_one_false_link_does_not_join_two_triangles(score: float) -> None:
    given_links = [*clique("ABC", 0.99), *clique("DEF", 0.99), *links("BE", score=score)]
    assert group(list("ABCDEF"), given_links) == [tuple("ABC"), tuple("DEF")]


def test_one_false_link_does_not_join_two_stars() -> None:
    given_links = links("AB", "AC", "AD", "EF", "EG", "EH") + links("BF", score=0.95)
    assert group(list("ABCDEFGH"), given_links) == [tuple("ABCD"), tuple("EFGH")]


def test_a_true_group_of_five_survives_every_loss_of_up_to_three_links() -> None:
    """All 176 ways to miss at most three of ten links, each under several orders of score."""
    rng = random.Random(7)
    every = list(itertools.combinations("ABCDE", 2))
    cases = 0
    for missed in range(4):
        for gone in itertools.combinations(every, missed):
            for _ in range(5):
                kept = [Link(a, b, rng.uniform(0.9, 1.0)) for a, b in every if (a, b) not in gone]
                assert group(list("ABCDE"), kept) == [tuple("ABCDE")], (gone, kept)
            cases += 1
    assert cases == 176


def test_a_refused_link_is_tried_again_when_its_clusters_have_grown() -> None:
    # BC comes third and is refused (one of four pairs linked); E, linked to all, then makes the two one.
    given_links = links("AB", "CD", score=0.99) + links("BC", score=0.98) + links("EA", "EB", "EC", "ED", score=0.97)
    assert group(list("ABCDE"), given_links) == [tuple("ABCDE")]


def test_the_better_link_wins_a_contested_picture() -> None:
    # C matches one of each of two pairs of pairs; only the stronger side can have it with A–B–C as hub group.
    left, right = links("AB", "DE", score=0.99), [Link("B", "C", 0.98), Link("C", "D", 0.97)]
    assert group(list("ABCDE"), left + right) == [tuple("ABC"), tuple("DE")]
    assert group(list("ABCDE"), [*left, Link("B", "C", 0.97), Link("C", "D", 0.98)]) == [tuple("AB"), tuple("CDE")]


def test_a_star_of_ten_thousand_copies_is_one_group() -> None:
    names = [f"copy/{i:05d}.jpg" for i in range(10_000)]
    star = [Link("original.jpg", name, 0.99 + (i % 97) / 1e4) for i, name in enumerate(names)]
    across = [Link(a, b, 0.99) for a, b in itertools.pairwise(names)]
    assert group([*names, "original.jpg"], star + across) == [(*names, "original.jpg")]


def test_the_work_grows_almost_linearly_with_a_star(monkeypatch: pytest.MonkeyPatch) -> None:
    import ndd.groups as module

    calls = 0
    find = module._find

    def counted(parent: list[int], at: int) -> int:
        nonlocal calls
        calls += 1
        return find(parent, at)

    monkeypatch.setattr(module, "_find", counted)
    work = []
    for size in (500, 4000):
        calls = 0
        names = [f"{i:05d}" for i in range(size)]
        assert len(group([*names, "hub"], [Link("hub", name, 0.9) for name in names])) == 1
        work.append(calls)
    assert work[1] < 8 * 1.5 * work[0]


# ---- exact copies


def test_exact_copies_count_as_one_picture() -> None:
    # Three copies of A, three of B; one link between representatives joins all six although 8 of 9 pairs have none.
    given_links = [Link(name[0] + "0", name, 1.0, exact=True) for name in ("A1", "A2", "B1", "B2")]
    paths = ["A0", "A1", "A2", "B0", "B1", "B2"]
    assert group(paths, given_links) == [("A0", "A1", "A2"), ("B0", "B1", "B2")]
    assert group(paths, [*given_links, Link("A0", "B0", 0.99)]) == [tuple(paths)]


def test_a_chain_of_exact_copies_is_one_group() -> None:
    chain = [Link(a, b, 1.0, exact=True) for a, b in itertools.pairwise("ABCDEFGH")]
    assert group(list("ABCDEFGH"), chain) == [tuple("ABCDEFGH")]


def test_a_perfect_score_alone_does_not_make_copies_exact() -> None:
    chain = [Link(a, b, 1.0) for a, b in itertools.pairwise("ABCDEFGH")]
    assert tuple("ABCDEFGH") not in group(list("ABCDEFGH"), chain)


# ---- people's decisions


def test_must_links_hold_without_evidence_and_in_chains() -> None:
    assert group(list("ABCDE"), [], must=[("A", "B"), ("B", "C"), ("D", "C")]) == [tuple("ABCD")]


def test_cannot_splits_whatever_the_score() -> None:
    assert group(list("AB"), links("AB", score=1.0), cannot=[("B", "A")]) == []
    groups = group(list("ABCD"), clique("ABCD"), cannot=[("A", "D")])
    assert not any({"A", "D"} <= set(g) for g in groups)
    assert ("A", "B", "C") in groups


def test_cannot_holds_through_clusters_that_grew() -> None:
    given_links = [*clique("ABC", 0.99), *clique("DEF", 0.99), *[Link(a, b, 0.9) for a in "ABC" for b in "DEF"]]
    assert group(list("ABCDEF"), given_links) == [tuple("ABCDEF")]
    assert group(list("ABCDEF"), given_links, cannot=[("C", "F")]) == [tuple("ABC"), tuple("DEF")]


def test_a_cannot_link_reaches_exact_copies() -> None:
    given_links = [Link("A", "A2", 1.0, exact=True), Link("A", "B", 0.99)]
    assert group(["A", "A2", "B"], given_links, cannot=[("A2", "B")]) == [("A", "A2")]


def test_a_contradiction_names_the_pair_and_the_chain() -> None:
    with pytest.raises(InputError, match=r"^A – C: declared distinct.*A = B = C; withdraw"):
        group(list("ABC"), [], must=[("A", "B"), ("B", "C")], cannot=[("A", "C")])
    with pytest.raises(InputError, match=r"C = B = A"):
        group(list("ABC"), [Link("A", "B", 1.0, exact=True)], must=[("B", "C")], cannot=[("C", "A")])


# ---- wrong input


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match=r"Z: named by a link"):
        group(["A"], links("AZ"))
    with pytest.raises(InputError, match=r"Z: named by"):
        group(["A"], [], cannot=[("A", "Z")])
    with pytest.raises(InputError, match=r"A: listed twice"):
        group(["A", "B", "A"], [])
    with pytest.raises(InputError, match=r"linked to itself"):
        Link("A", "A", 0.5)
    for score in (float("nan"), -0.1, 1.1):
        with pytest.raises(InputError, match=r"0…1"):
            Link("A", "B", score)


# ---- pairs still to compare


def test_completions_ask_for_what_would_make_one_group_of_a_half_seen_star() -> None:
    """Twenty copies of one picture, each compared with its 6 next neighbours in a ring: the truth is one group."""
    names = [f"{i:02d}" for i in range(20)]
    known = {tuple(sorted((names[i], names[(i + step) % 20]))) for i in range(20) for step in (1, 2, 3)}
    assert len(group(names, [Link(a, b, 0.99) for a, b in known])) > 1
    while asked := completions(names, [Link(a, b, 0.99) for a, b in known]):
        assert not known & set(asked)
        known |= set(asked)  # every answer is "duplicate": they are one picture
    assert group(names, [Link(a, b, 0.99) for a, b in known]) == [tuple(names)]
    assert len(known) < 20 * 19 / 2 * 0.75


def test_completions_never_ask_against_a_persons_word() -> None:
    given_links = [*clique("ABC"), *clique("DEF"), *links("AD")]
    asked = completions(list("ABCDEF"), given_links)
    assert asked == [("A", "E"), ("A", "F")]
    assert completions(list("ABCDEF"), given_links, cannot=[("B", "F")]) == []
    assert completions(list("ABCDEF"), given_links[:-1]) == []


# ---- properties

edges = st.lists(
    st.tuples(names := st.sampled_from(LETTERS), names, st.sampled_from([0.5, 0.7, 0.9, 0.95, 1.0]), st.booleans())
    .filter(lambda e: e[0] != e[1])
    .map(lambda e: Link(e[0], e[1], e[2], exact=e[3] and e[2] == 1.0)),
    max_size=30,
)
decided = st.lists(st.tuples(names, names).filter(lambda p: p[0] != p[1]), max_size=4)


def _joined(pairs: list[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Connected components by plain repeated union."""
    parts = {name: frozenset(name) for name in LETTERS}
    for a, b in pairs:
        union = parts[a] | parts[b]
        for name in union:
            parts[name] = union
    return parts


def _oracle(
    given_links: list[Link], must: list[tuple[str, str]], cannot: list[tuple[str, str]]
) -> list[tuple[str, ...]]:
    """The documented rule, word by word, with sets and loops and no bookkeeping."""
    node = {n: min(p) for n, p in _joined([(x.left, x.right) for x in given_links if x.exact] + must).items()}
    best: dict[tuple[str, str], float] = {}
    for link in given_links:
        u, v = sorted((node[link.left], node[link.right]))
        if u != v:
            best[u, v] = max(best.get((u, v), 0.0), link.score)
    linked = {frozenset(pair) for pair in best}
    known = {n: {n} | {o for o in LETTERS if frozenset((n, o)) in linked} for n in LETTERS}
    bars = {frozenset((node[a], node[b])) for a, b in cannot}

    def order(pair: tuple[str, str]) -> tuple[bool, float, tuple[str, str]]:
        u, v = pair
        supported = len(known[u] & known[v]) / min(len(known[u]), len(known[v])) > 0.5
        return not supported, -best[pair], pair

    def cohesive(one: frozenset[str], two: frozenset[str]) -> bool:
        union = one | two
        degree = {m: sum(frozenset((m, o)) in linked for o in union if o != m) for m in union}
        across = sum(frozenset((x, y)) in linked for x in one for y in two)
        hub = max(degree.values()) == len(union) - 1
        mutual = 2 * across >= len(one) * len(two) and 2 * min(degree.values()) >= len(union) - 1
        return hub or mutual

    parts = {name: frozenset([name]) for name in set(node.values())}
    changed = True
    while changed:
        changed = False
        for u, v in sorted(best, key=order):
            one, two = parts[u], parts[v]
            barred = any(frozenset((x, y)) in bars for x in one for y in two)
            if one != two and not barred and cohesive(one, two):
                changed = True
                for name in one | two:
                    parts[name] = one | two
    groups = {tuple(sorted(n for n in LETTERS if node[n] in part)) for part in parts.values()}
    return sorted(g for g in groups if len(g) > 1)


@settings(max_examples=400, deadline=None)
@given(edges, decided, decided, st.randoms(use_true_random=False))
def test_against_the_rule_written_out_plainly(
    given_links: list[Link], must: list[tuple[str, str]], cannot: list[tuple[str, str]], rng: random.Random
) -> None:
    same = _joined([(x.left, x.right) for x in given_links if x.exact] + must)
    if any(b in same[a] for a, b in cannot):
        with pytest.raises(InputError, match="declared distinct"):
            group(LETTERS, given_links, must=must, cannot=cannot)
        return
    groups = group(LETTERS, given_links, must=must, cannot=cannot)
    assert groups == _oracle(given_links, must, cannot)
    members = [name for g in groups for name in g]
    assert len(members) == len(set(members))
    where = {name: i for i, g in enumerate(groups) for name in g}
    assert all(a in where and where[a] == where.get(b) for a, b in must)
    assert not any(a in where and where[a] == where.get(b) for a, b in cannot)

    # Any order, either direction, any cut into shards that repeat one another: the same groups.
    shards = [given_links[: len(given_links) // 2], given_links[len(given_links) // 3 :]]
    merged = [Link(x.right, x.left, x.score, exact=x.exact) for shard in shards for x in shard]
    rng.shuffle(merged)
    shuffled = list(LETTERS)
    rng.shuffle(shuffled)
    turned = [(b, a) for a, b in cannot][::-1]
    assert group(shuffled, merged, must=must[::-1], cannot=turned) == groups


@settings(max_examples=300, deadline=None)
@given(edges)
def test_two_members_match_or_share_a_third_that_matches_both(given_links: list[Link]) -> None:
    plain = [Link(x.left, x.right, x.score) for x in given_links]
    near: dict[str, set[str]] = {name: set() for name in LETTERS}
    for link in plain:
        near[link.left].add(link.right)
        near[link.right].add(link.left)
    for members in group(LETTERS, plain):
        for a, b in itertools.combinations(members, 2):
            assert b in near[a] or near[a] & near[b] & set(members)
