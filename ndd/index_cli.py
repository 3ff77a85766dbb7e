"""`ndd index create | add | remove | query | info | compact | backup | restore`: an index of pictures on disk."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ndd.arguments import positive

if TYPE_CHECKING:
    from ndd.index.store import IndexStore

__all__ = ["add_index_commands"]

_MODEL = "model directory (default: NDD_MODEL, the champion, the shipped one)"


def add_index_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], judging: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add `index` and its own commands. judging: adds the arguments about scores and the model."""
    index = commands.add_parser("index", help="keep pictures in an index and look others up in it")
    verbs = index.add_subparsers(required=True, metavar="COMMAND")

    create = _verb(verbs, "create", _create, "make an empty index for the vectors of one model")
    create.add_argument("--model", metavar="DIR", help=_MODEL)

    add = _verb(
        verbs, "add", _add, "add folders of pictures, or single files; each is known by its path below the folder"
    )
    add.add_argument("paths", nargs="+", metavar="PATH")
    add.add_argument("--prefix", default="", metavar="TEXT", help="put this before every id, e.g. `holiday/`")
    add.add_argument("--replace", action="store_true", help="let a picture take the place of another one with its id")
    add.add_argument("--failures", metavar="FILE.parquet", help="write down what could not be added")
    add.add_argument("--model", metavar="DIR", help=_MODEL)
    add.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")

    remove = _verb(verbs, "remove", _remove, "forget pictures")
    remove.add_argument("ids", nargs="+", metavar="ID")

    query = _verb(verbs, "query", _query, "look a picture up", own_json=False)
    query.add_argument("image", metavar="IMAGE")
    query.add_argument("--k", type=positive, default=10, metavar="K", help="at most so many matches (default: 10)")
    judging(query)

    info = _verb(verbs, "info", _info, "say what an index holds")
    info.add_argument("--check", action="store_true", help="read every picture and its checksums")

    _verb(verbs, "compact", _compact, "give back the room of removed pictures")

    for name, run, text in (
        ("backup", _backup, "bring a copy up to date, sending only what is new"),
        ("restore", _restore, "make an index from a copy"),
    ):
        copy = _verb(verbs, name, run, text)
        copy.add_argument(
            "url", metavar="URL", help="s3://bucket/prefix?region=…&endpoint_override=…, gs://…, file:///folder"
        )


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    *,
    own_json: bool = True,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.add_argument("index", metavar="INDEX", help="directory of the index")
    if own_json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    parser.set_defaults(run=run)
    return parser


def _create(arguments: argparse.Namespace) -> int:
    from ndd.index.store import IndexStore
    from ndd.model.directory import describe, resolve

    model = describe(resolve(arguments.model))
    digest, dim = model.embedding_digest, model.config.dim
    with IndexStore.create(arguments.index, embedding_digest=digest, dim=dim) as store:
        return _print_info(store, arguments, {})


def _add(arguments: argparse.Namespace) -> int:
    from ndd.detector import Detector
    from ndd.index.filling import fill
    from ndd.index.store import IndexStore
    from ndd.tables import write_failures

    detector = Detector(arguments.model)
    with IndexStore.open(arguments.index, embedding_digest=detector.model.embedding_digest) as store:
        filled = fill(
            store,
            detector,
            arguments.paths,
            prefix=arguments.prefix,
            replace=arguments.replace,
            workers=arguments.workers,
        )
        images = len(store)
    if arguments.failures:
        write_failures(arguments.failures, filled.failures)
    failures = [{"path": f.path, "stage": f.stage, "reason": f.reason} for f in filled.failures]
    if arguments.json:
        _print({**filled.counts, "images": images, "failed": len(failures), "failures": failures})
    else:
        for failure in filled.failures:
            sys.stderr.write(f"{failure.path}: {failure.stage}: {failure.reason}\n")
        said = ", ".join(f"{count} {outcome}" for outcome, count in filled.counts.items())
        _say(f"{said}, {len(failures)} failed; {images} pictures in {arguments.index}")
    filled.raise_if_nothing()
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from ndd.index.store import IndexStore

    with IndexStore.open(arguments.index) as store:
        there = store.remove(arguments.ids)
        images = len(store)
    missing = [id for id, was in zip(arguments.ids, there, strict=True) if not was]
    if arguments.json:
        _print({"removed": sum(there), "missing": missing, "images": images})
    else:
        for id in missing:
            sys.stderr.write(f"{id}: not in the index\n")
        _say(f"{sum(there)} removed; {images} pictures in {arguments.index}")
    return 0 if any(there) else 1


def _query(arguments: argparse.Namespace) -> int:
    from ndd.config import FindConfig
    from ndd.data.decisions import DecisionStore
    from ndd.detector import Detector
    from ndd.home import home
    from ndd.index.search import answer
    from ndd.index.store import IndexStore

    names = ("relation", "precision", "verify")
    config = FindConfig.from_dict({n: v for n in names if (v := getattr(arguments, n)) is not None})
    detector = Detector(arguments.model, config=config)
    digest = detector.model.embedding_digest
    with IndexStore.open(arguments.index, embedding_digest=digest, read_only=True) as store:
        picture = detector.look(arguments.image)
        found = detector.search(store, picture, k=arguments.k, decisions=DecisionStore(home().decisions))
    if arguments.json:
        _print(answer(detector, found))
        return 0
    for id, match in found:
        word = "duplicate" if match.duplicate else "distinct"
        said = "  (as a person decided)" if "decision" in match.evidence else ""
        _say(f"{match.score:.4f}  {word:9}  {match.relation or 'none':9}  {match.distance:.4f}  {id}{said}")
    if not found:
        _say(f"nothing in {arguments.index} is near {arguments.image}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from ndd.index.store import IndexStore

    with IndexStore.open(arguments.index, read_only=True) as store:
        return _print_info(store, arguments, {"checked": store.check()} if arguments.check else {})


def _compact(arguments: argparse.Namespace) -> int:
    from ndd.index.store import IndexStore

    with IndexStore.open(arguments.index) as store:
        store.compact()
        return _print_info(store, arguments, {})


def _backup(arguments: argparse.Namespace) -> int:
    from ndd.index.backup import backup
    from ndd.index.store import IndexStore

    with IndexStore.open(arguments.index) as store:
        said = backup(store, arguments.url)
    if arguments.json:
        _print(said)
    else:
        _say(f"{said['images']} pictures; {said['sent']} files sent, {said['bytes'] / 2**20:.1f} MiB")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from ndd.index.backup import restore

    with restore(arguments.url, arguments.index) as store:
        return _print_info(store, arguments, {})


def _print_info(store: IndexStore, arguments: argparse.Namespace, more: dict[str, Any]) -> int:
    info = {**store.info(), **more}
    if arguments.json:
        _print(info)
        return 0
    kind = info["search"]["kind"]
    _say(
        f"{arguments.index}: {info['images']} pictures ({info['removed']} removed and not yet cleared), search: {kind}"
    )
    _say(f"vectors of {info['dim']} numbers by model {info['embedding_digest'][:12]}")
    size = sum(info["bytes"].values())
    _say(f"{size / 2**20:.1f} MiB on disk" + (f"; {more['checked']} pictures checked" if "checked" in more else ""))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _print(values: dict[str, Any]) -> None:
    _say(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False))
