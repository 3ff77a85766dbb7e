"""`ndd find | compare | embed | index | decide`: arguments in, one answer or one line of error out.

Exit codes: 0 done, 2 wrong usage, 3 nothing could be read, 130 interrupted, 1 anything else. Nothing heavy is imported
before the arguments are understood.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ndd import threshold_cli
from ndd.arguments import positive
from ndd.errors import NddError
from ndd.index_cli import add_index_commands

if TYPE_CHECKING:
    from ndd.config import FindConfig
    from ndd.find import FindRequest
    from ndd.vectors import Embedded

__all__ = [
    "add_embed_arguments",
    "add_find_arguments",
    "guarded",
    "main",
    "report_embedded",
    "report_found",
    "request_of",
]

RELATIONS = ("exact", "reencoded", "edited", "scene")
VERDICTS = ("duplicate", "distinct", "unsure", "withdrawn")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return guarded(lambda: run(arguments), program="ndd")


def guarded(run: Callable[[], int], *, program: str) -> int:
    """Call `run`; an exception becomes one line on stderr and an exit code. NDD_DEBUG=1 lets it through with traceback."""
    if os.environ.get("NDD_DEBUG") == "1":
        return run()
    try:
        return run()
    except NddError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        print(f"{program}: {type(error).__name__}: {text} (NDD_DEBUG=1 shows where)", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ndd", description="Find near-duplicate images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    find = commands.add_parser("find", help="find the near-duplicates in folders of pictures")
    add_find_arguments(find)
    find.set_defaults(run=_find)

    compare = commands.add_parser("compare", help="compare two pictures")
    compare.add_argument("left", metavar="A")
    compare.add_argument("right", metavar="B")
    compare.add_argument("--explain", metavar="OUT.png", help="draw what the two have in common")
    _add_judging_arguments(compare)
    compare.set_defaults(run=_compare)

    embed = commands.add_parser("embed", help="write the embeddings of pictures to a Parquet file")
    embed.add_argument("paths", nargs="+", metavar="PATH")
    embed.add_argument("--out", required=True, metavar="FILE.parquet")
    embed.add_argument(
        "--model", metavar="DIR", help="model directory (default: NDD_MODEL, the champion, the shipped one)"
    )
    embed.add_argument("--workers", type=positive, metavar="N", help="threads (default: one per core)")
    embed.set_defaults(run=_embed)

    add_index_commands(commands, _add_judging_arguments)

    decide = commands.add_parser("decide", help="record what a person says of two pictures")
    decide.add_argument("left", metavar="A")
    decide.add_argument("right", metavar="B")
    decide.add_argument("--verdict", required=True, choices=VERDICTS)
    decide.add_argument("--relation", choices=RELATIONS, help="what the two are to each other")
    decide.add_argument("--reviewer", metavar="NAME", help="who says so (default: the user logged in)")
    decide.add_argument("--model", metavar="DIR", help="model whose digests the decision carries")
    decide.set_defaults(run=_decide)

    threshold = commands.add_parser("threshold", help="choose a threshold from your own answers, at a stated precision")
    threshold_cli.add_arguments(threshold)
    threshold.set_defaults(run=threshold_cli.run)
    return parser


def add_find_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `find`, here and in `python -m pipelines`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or picture files")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="where to write pairs, groups, failures and the report"
    )
    parser.add_argument(
        "--against", action="append", default=[], metavar="PATH", help="compare with these instead of among themselves"
    )
    parser.add_argument("--neighbours", type=int, metavar="K", help="nearest descriptors looked at for each picture")
    parser.add_argument("--floor", type=float, metavar="P", help="pairs with a lower score are not written")
    _add_judging_arguments(parser)
    parser.add_argument("--workers", type=positive, metavar="N", help="how many work at once (default: one per core)")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="pictures handed to a worker at once")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output made with other settings or pictures"
    )


def add_embed_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `embed`, here and in `python -m pipelines`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or picture files")
    parser.add_argument("--out", required=True, metavar="FILE.parquet")
    parser.add_argument(
        "--model", metavar="DIR", help="model directory (default: NDD_MODEL, the champion, the shipped one)"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="how many work at once (default: one per core)")


def _add_judging_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--relation", choices=RELATIONS, help="the loosest relation that counts as a duplicate")
    parser.add_argument("--precision", type=float, metavar="Q", help="wanted precision of the accepted pairs")
    parser.add_argument("--threshold", type=float, metavar="T", help="accept from this score instead (`ndd threshold`)")
    parser.add_argument("--verify", choices=("keypoints", "none"), help="how candidates are verified")
    parser.add_argument(
        "--model", metavar="DIR", help="model directory (default: NDD_MODEL, the champion, the shipped one)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")


def config_of(arguments: argparse.Namespace) -> FindConfig:
    """The settings that were given, over the defaults. Raises ConfigError."""
    from ndd.config import FindConfig

    names = ("relation", "precision", "threshold", "floor", "neighbours", "verify")
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return FindConfig.from_dict(given)


def request_of(arguments: argparse.Namespace, *, workers: int) -> FindRequest:
    """What `find` was asked to do."""
    from ndd.find import FindRequest

    return FindRequest(
        paths=arguments.paths,
        out=arguments.out,
        against=arguments.against,
        config=config_of(arguments),
        model=arguments.model,
        overwrite=arguments.overwrite,
        # A worker is handed block / workers pictures at once.
        block=arguments.batch_size and arguments.batch_size * workers,
    )


def report_found(run: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Print what `find` found: run.json, or a few lines for a person."""
    if arguments.json:
        print(json.dumps(run, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    print(
        f"{run['images']} pictures ({run['failed']} could not be read): {run['groups']} groups, {run['duplicates']} pairs "
        f"at a score of {run['threshold']:.3f} or more (wanted precision {run['precision']:g})"
    )
    print(f"report: {os.path.join(arguments.out, 'report.html')}")
    return 0


def _one_thread_each() -> None:
    """Libraries of numbers are to compute on the thread that calls them; call this before they are imported.

    Work is spread over the cores picture by picture. Threads of OpenBLAS, OpenMP and OpenCV beside those add nothing but
    waiting in a loop: a quarter of the processor time of `ndd embed`. What the user has set stays.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    import cv2

    cv2.setNumThreads(1)


@contextlib.contextmanager
def _network_ahead(model: str | None) -> Iterator[None]:
    """Begin to load the network before the libraries that the command needs beside it are imported."""
    from ndd.model.runtime import Runtime, forget_ahead, load_ahead

    def wanted() -> Runtime | None:
        from ndd.model.directory import describe, resolve

        return describe(resolve(model)).runtime

    load_ahead(wanted)
    try:
        yield
    finally:
        forget_ahead()


def _find(arguments: argparse.Namespace) -> int:
    _one_thread_each()
    with _network_ahead(arguments.model):
        from ndd.find import find
        from ndd.local import LocalRunner

        runner = LocalRunner(workers=arguments.workers)
        return report_found(find(request_of(arguments, workers=runner.workers), runner), arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from ndd.data.decisions import DecisionStore
    from ndd.detector import Detector
    from ndd.home import home

    detector = Detector(arguments.model, config=config_of(arguments))
    match = detector.compare(arguments.left, arguments.right, decisions=DecisionStore(home().decisions))
    if arguments.explain:
        detector.explain(arguments.left, arguments.right, out=arguments.explain)
    answer = detector.answer(match)
    if arguments.json:
        print(json.dumps(answer, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        word = "duplicate" if match.duplicate else "distinct"
        said = ", as a person decided" if "decision" in match.evidence else ""
        print(
            f"{word}{said}: score {match.score:.4f}, distance {match.distance:.4f}, relation {match.relation or 'none'}"
        )
        if arguments.explain:
            print(f"explained in {arguments.explain}")
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    _one_thread_each()
    with _network_ahead(arguments.model):
        from ndd.local import LocalRunner
        from ndd.vectors import embed_files

        runner = LocalRunner(workers=arguments.workers)
        return report_embedded(embed_files(arguments.paths, arguments.out, runner, model=arguments.model), arguments)


def report_embedded(embedded: Embedded, arguments: argparse.Namespace) -> int:
    """Say what was written and what was not."""
    for failure in embedded.failures:
        print(f"{failure.path}: {failure.stage}: {failure.reason}", file=sys.stderr)
    print(f"{embedded.vectors} vectors in {arguments.out}; {len(embedded.failures)} pictures could not be read")
    return 0


def _decide(arguments: argparse.Namespace) -> int:
    from ndd.decide import record

    decision = record(
        arguments.left,
        arguments.right,
        verdict=arguments.verdict,
        relation=arguments.relation,
        reviewer=arguments.reviewer,
        model=arguments.model,
    )
    print(f"recorded: {decision.verdict} by {decision.reviewer} (pair {decision.pair_id[:12]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
