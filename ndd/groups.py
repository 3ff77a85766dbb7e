"""Accepted pairs and people's decisions → groups, the same for any order or sharding of the input.

Plain connected components chain: a handful of false links joins half an album. Here two clusters merge only if their
union S is *cohesive*, which means one of

* **hub**: one member is linked directly to every other member of S (an original and its copies, however many), or
* **mutual**: at least half of the pairs across the two clusters are linked, and every member of S is linked to at
  least half of the others (a ½-quasi-clique: Pei, Jiang & Zhang, "On mining cross-graph quasi-cliques", KDD 2005).

Either way any two members match each other or both match a common third one: the hub, or, as two unlinked members
have at least (|S| − 1) / 2 links each into the |S| − 2 others, one of those. So the far ends of a chain A–B–C–D never
share a group, nor do two tight clusters joined by one false link. The price: one false link between a lone picture
and a member that matches all others still adds that picture.

Links are taken by (supported first, score descending, left, right); a link is supported if its ends share more than
half of the acquaintances of the less connected one, themselves included (structural similarity: Xu et al., "SCAN", KDD
2007). A false link between two tight clusters is not, so even with the best score of all it comes after the true ones.
A link that was refused is tried again after either cluster has grown, until nothing changes. Exact copies, and pictures
that a person declared duplicates, are collapsed into one node first.

Complexity, for n paths and m links: sorting is O(m log m), support O(Σ min(deg u, deg v)); merging moves the side with
fewer links, so every link moves O(log m) times; a test costs the links of that side and is remembered until a side
grows. A star of n copies is O(n log n). Memory is O(n + m).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ndd.errors import InputError

__all__ = ["Link", "completions", "group"]


@dataclass(frozen=True, slots=True)
class Link:
    """Two paths accepted as duplicates, in either order; `exact` says that their bytes are the same.

    score: P(duplicate | evidence), in [0, 1]. Raises InputError for a path linked to itself or a score out of range.
    """

    left: str
    right: str
    score: float
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.left == self.right:
            raise InputError(f"{self.left}: linked to itself; a link joins two different paths")
        if not 0.0 <= self.score <= 1.0:
            raise InputError(f"{self.left} – {self.right}: the score of a link lies in 0…1, got {self.score!r}")


def group(
    paths: Sequence[str],
    links: Iterable[Link],
    *,
    must: Iterable[tuple[str, str]] = (),
    cannot: Iterable[tuple[str, str]] = (),
) -> list[tuple[str, ...]]:
    """Groups of two or more paths, each sorted, the list sorted; see the module for the rule.

    paths: every path once. links: accepted pairs; a pair given twice counts once, with its best score.
    must, cannot: pairs a person declared duplicate or distinct. Must-links hold without any evidence and in chains;
    cannot-links keep two pictures apart whatever the evidence.
    Raises InputError for an unknown or repeated path, and where a cannot-link contradicts a chain of must-links
    or exact copies.
    """
    nodes, clusters = _cluster(paths, links, must=must, cannot=cannot)
    groups = []
    for members in clusters.groups():
        found = sorted(path for node in members for path in nodes.paths[node])
        if len(found) > 1:
            groups.append(tuple(found))
    return sorted(groups)


def completions(
    paths: Sequence[str],
    links: Iterable[Link],
    *,
    must: Iterable[tuple[str, str]] = (),
    cannot: Iterable[tuple[str, str]] = (),
) -> list[tuple[str, str]]:
    """Pairs (left < right, sorted) worth comparing next: they would tell whether two linked groups are really one.

    A search that looks at k neighbours cannot see all pairs of a larger group, so a true group may come out in parts.
    For each two groups that are linked but were kept apart by the rule of cohesion, the best-linked member of the
    larger one is paired with every member of both it has no link to. At most (|A| + |B|) pairs for each such two.
    Same arguments and errors as `group`.
    """
    nodes, clusters = _cluster(paths, links, must=must, cannot=cannot)
    asked: set[tuple[int, int]] = set()
    for a, b in clusters.kept_apart():
        large, small = sorted((a, b), key=lambda root: (-len(clusters.members[root]), min(clusters.members[root])))
        hub = min(clusters.members[large], key=lambda node: (-clusters.inner[node], node))
        for other in clusters.members[large] + clusters.members[small]:
            if other != hub and other not in clusters.adjacent[hub] and other not in clusters.barred_nodes[hub]:
                asked.add((min(hub, other), max(hub, other)))
    return [(nodes.paths[u][0], nodes.paths[v][0]) for u, v in sorted(asked)]


class _Nodes:
    """Paths collapsed by exact and must-links. Node numbers follow the first path of each node."""

    def __init__(self, paths: Sequence[str], links: Sequence[Link], must: Sequence[tuple[str, str]]) -> None:
        ordered = sorted(paths)
        for before, after in pairwise(ordered):
            if before == after:
                raise InputError(f"{after}: listed twice; each path is grouped once")
        self._index = {path: i for i, path in enumerate(ordered)}
        self._same: dict[str, list[str]] = {}
        parent = list(range(len(ordered)))
        joined = [(link.left, link.right) for link in links if link.exact]
        for a, b in [*joined, *must]:
            self._same.setdefault(a, []).append(b)
            self._same.setdefault(b, []).append(a)
            low, high = sorted((_find(parent, self._at(a)), _find(parent, self._at(b))))
            parent[high] = low
        self.paths: list[list[str]] = []
        self._node: list[int] = []
        for i, path in enumerate(ordered):
            root = _find(parent, i)
            if root == i:
                self._node.append(len(self.paths))
                self.paths.append([path])
            else:  # the root is the smallest index, so its node is known
                self._node.append(self._node[root])
                self.paths[self._node[root]].append(path)

    def _at(self, path: str) -> int:
        if path not in self._index:
            raise InputError(
                f"{path}: named by a link or a decision, not among the paths to group; add it or leave both out"
            )
        return self._index[path]

    def of(self, path: str) -> int:
        return self._node[self._at(path)]

    def chain(self, start: str, end: str) -> list[str]:
        """Shortest way from `start` to `end` over exact and must-links."""
        came: dict[str, str] = {start: start}
        queue = deque([start])
        while end not in came:
            at = queue.popleft()
            for following in sorted(self._same[at]):
                if following not in came:
                    came[following] = at
                    queue.append(following)
        way = [end]
        while way[-1] != start:
            way.append(came[way[-1]])
        return way[::-1]


class _Clusters:
    """Disjoint sets of nodes that know the links inside and between them."""

    def __init__(self, adjacent: list[set[int]], barred: list[set[int]]) -> None:
        size = len(adjacent)
        self.adjacent = adjacent
        self.barred_nodes = barred
        self._parent = list(range(size))
        self.members = [[node] for node in range(size)]
        self.inner = [0] * size  # links to members of the own cluster, for each node
        self._between = [dict.fromkeys(near, 1) for near in adjacent]  # cluster → cluster → number of links
        self._barred = [set(near) for near in barred]
        self._volume = [len(near) + len(bars) for near, bars in zip(adjacent, barred, strict=True)]
        self._refused: dict[tuple[int, int], tuple[int, int]] = {}

    def settle(self, links: Sequence[tuple[int, int]]) -> None:
        """Merge along `links`, best first, until every remaining link is refused."""
        pending, grown = list(links), True
        while grown:
            grown, refused = False, []
            for u, v in pending:
                a, b = _find(self._parent, u), _find(self._parent, v)
                if a == b:
                    continue
                if self._may_merge(a, b):
                    self._merge(a, b)
                    grown = True
                else:
                    refused.append((u, v))
            pending = refused

    def groups(self) -> list[list[int]]:
        return [self.members[root] for root in range(len(self.members)) if self._parent[root] == root]

    def kept_apart(self) -> list[tuple[int, int]]:
        """Roots of clusters that are linked, and not by a person's word apart."""
        roots = [root for root in range(len(self.members)) if self._parent[root] == root]
        return [(a, b) for a in roots for b in sorted(self._between[a]) if a < b and b not in self._barred[a]]

    def _may_merge(self, a: int, b: int) -> bool:
        key = (min(a, b), max(a, b))
        sizes = (len(self.members[key[0]]), len(self.members[key[1]]))
        if self._refused.get(key) == sizes or b in self._barred[a]:
            return False
        # Either rule needs a link for every member of the smaller side: most refusals end here, without a look inside.
        if self._between[a].get(b, 0) >= min(sizes) and self._cohesive(a, b):
            return True
        self._refused[key] = sizes
        return False

    def _cohesive(self, a: int, b: int) -> bool:
        sides = ((a, len(self.members[b])), (b, len(self.members[a])))
        gained = self._links_across(a, b)
        for root, others in sides:
            own = len(self.members[root])
            if any(gained.get(node) == others and self.inner[node] == own - 1 for node in self._touched(root, gained)):
                return True
        if 2 * self._between[a][b] < len(self.members[a]) * len(self.members[b]):
            return False
        half = (len(self.members[a]) + len(self.members[b]) - 1) / 2
        return all(self.inner[n] + gained.get(n, 0) >= half for root in (a, b) for n in self.members[root])

    def _links_across(self, a: int, b: int) -> dict[int, int]:
        """For each node with a link into the other cluster, how many."""
        small, large = sorted((a, b), key=self._volume.__getitem__)
        counts: dict[int, int] = {}
        for node in self.members[small]:
            for near in self.adjacent[node]:
                if _find(self._parent, near) == large:
                    counts[node] = counts.get(node, 0) + 1
                    counts[near] = counts.get(near, 0) + 1
        return counts

    def _touched(self, root: int, counts: dict[int, int]) -> list[int]:
        return [node for node in counts if _find(self._parent, node) == root]

    def _merge(self, a: int, b: int) -> None:
        for node, count in self._links_across(a, b).items():
            self.inner[node] += count
        small, large = sorted((a, b), key=self._volume.__getitem__)
        self._parent[small] = large
        self.members[large] += self.members[small]
        self.members[small] = []
        self._volume[large] += self._volume[small]
        self._between[large].pop(small, None)
        for other, count in self._between[small].items():
            if other != large:
                self._between[large][other] = self._between[large].get(other, 0) + count
                self._between[other][large] = self._between[large][other]
                del self._between[other][small]
        for other in self._barred[small]:
            self._barred[other].discard(small)
            self._barred[other].add(large)
            self._barred[large].add(other)
        self._between[small], self._barred[small] = {}, set()


def _find(parent: list[int], at: int) -> int:
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = parent[at]
    return at


def _cluster(
    paths: Sequence[str],
    links: Iterable[Link],
    *,
    must: Iterable[tuple[str, str]],
    cannot: Iterable[tuple[str, str]],
) -> tuple[_Nodes, _Clusters]:
    links = list(links)
    nodes = _Nodes(paths, links, list(must))
    best: dict[tuple[int, int], float] = {}
    adjacent: list[set[int]] = [set() for _ in nodes.paths]
    barred: list[set[int]] = [set() for _ in nodes.paths]
    for link in links:
        low, high = sorted((nodes.of(link.left), nodes.of(link.right)))
        if low != high:
            best[low, high] = max(link.score, best.get((low, high), 0.0))
            adjacent[low].add(high)
            adjacent[high].add(low)
    for a, b in cannot:
        u, v = nodes.of(a), nodes.of(b)
        if u == v:
            raise InputError(_contradiction(nodes, a, b))
        barred[u].add(v)
        barred[v].add(u)
    clusters = _Clusters(adjacent, barred)
    clusters.settle(sorted(best, key=lambda pair: (not _supported(adjacent, *pair), -best[pair], pair)))
    return nodes, clusters


def _supported(adjacent: list[set[int]], u: int, v: int) -> bool:
    shared = len(adjacent[u] & adjacent[v]) + 2  # both ends are acquaintances of both
    return 2 * shared > min(len(adjacent[u]), len(adjacent[v])) + 1


def _contradiction(nodes: _Nodes, a: str, b: str) -> str:
    way = " = ".join(nodes.chain(a, b))
    return f"{a} – {b}: declared distinct, yet decisions or equal bytes make them one: {way}; withdraw one of them"
