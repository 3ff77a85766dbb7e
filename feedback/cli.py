"""`python -m feedback COMMAND`: uncertain pairs to people in Label Studio, their answers to the decisions.

Exit codes as of `ndd`: 0 done, 2 wrong usage, 1 anything else. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ndd.arguments import positive
from ndd.cli import guarded

if TYPE_CHECKING:
    from feedback.desk import Desk
    from feedback.labelstudio import Server
    from feedback.push import Pushed
    from ndd.candidates import FindRun

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return guarded(lambda: run(arguments), program="python -m feedback")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m feedback",
        description="Put uncertain pairs before people in Label Studio, and make decisions of their answers.",
        epilog="The server: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY (a personal access token or a legacy token), else the "
        "one that `review` started.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    push = commands.add_parser("push", help="choose pairs and make a task of each")
    _add_push_arguments(push)
    push.set_defaults(run=_push)

    pull = commands.add_parser("pull", help="make decisions of the answers")
    pull.set_defaults(run=_pull)

    answer = commands.add_parser("answer", help="stand in for people: answer by the known truth of an album")
    answer.add_argument("album", metavar="ALBUM", help="folder with the pictures and groups.csv (image, group)")
    answer.set_defaults(run=_answer)

    review = commands.add_parser(
        "review", help="start Label Studio on this machine, push, and collect answers until stopped"
    )
    _add_push_arguments(review)
    review.add_argument(
        "--port", type=int, default=8080, metavar="N", help="port on 127.0.0.1 (default 8080; taken: a free one)"
    )
    review.add_argument(
        "--every", type=float, default=15.0, metavar="SECONDS", help="how often answers are fetched (default 15)"
    )
    review.set_defaults(run=_review)

    status = commands.add_parser("status", help="queue, answers, agreement, precision")
    status.add_argument("--json", action="store_true", help="print JSON and nothing else")
    status.add_argument("--html", metavar="FILE", help="write a page as well")
    status.set_defaults(run=_status)

    listen = commands.add_parser("listen", help="receive Label Studio's webhooks, and fetch answers as they come")
    listen.add_argument("--port", type=int, default=8090, metavar="N", help="port on 127.0.0.1 (default 8090)")
    listen.add_argument("--register", metavar="URL", help="have Label Studio report to URL (as it sees this receiver)")
    listen.add_argument(
        "--every", type=float, default=60.0, metavar="SECONDS", help="fetch everything as often as this too"
    )
    listen.set_defaults(run=_listen)
    return parser


def _add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="--out folders of `ndd find` (none: only what is queued)"
    )
    parser.add_argument(
        "--count", type=int, default=100, metavar="N", help="pairs to choose from each run (default 100)"
    )
    parser.add_argument(
        "--audit", type=float, default=0.2, metavar="SHARE", help="share drawn at random, to measure (default 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random share")
    parser.add_argument("--limit", type=int, metavar="N", help="most new tasks")
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="DIR",
        help="folder whose pictures may be shown (those of the runs may)",
    )
    parser.add_argument(
        "--reviewers", type=positive, metavar="N", help="answers wanted for each pair (as before; at first 1)"
    )
    parser.add_argument(
        "--pictures",
        default="local",
        metavar="HOW",
        help="local, upload, or the address at which the previews' folder can be reached (s3://bucket/folder)",
    )
    parser.add_argument(
        "--suggest", action="store_true", help="choose the model's answer in advance, except in audit draws"
    )
    parser.add_argument("--model", metavar="DIR", help="model directory that aligns the pairs (default: the champion)")


def _push(arguments: argparse.Namespace) -> int:
    from feedback.desk import Desk
    from feedback.labelstudio import Server

    desk = Desk()
    url, token = desk.address()
    with Server(url, token=token) as server:
        pushed = push_all(desk, server, arguments)
    print(f"{url}/projects/{pushed.project}/data?tab={pushed.view}")
    return 0


def push_all(desk: Desk, server: Server, arguments: argparse.Namespace) -> Pushed:
    """Choose among the pairs of the runs, push, and say what was done."""
    from feedback import push
    from feedback.pictures import Previews
    from ndd.candidates import read_candidates
    from ndd.home import home

    found: list[FindRun] = [read_candidates(directory) for directory in arguments.runs]
    for run in found:
        new = push.choose(desk, run, count=arguments.count, audit_share=arguments.audit, seed=arguments.seed)
        lost = f"; {run.lost} left out, whose files changed" if run.lost else ""
        print(f"{run.directory}: {new} pairs chosen of {len(run.candidates)}{lost}")
    # Below the index lie the pictures that the server was sent and is unsure about.
    roots = [*arguments.root, *(os.fspath(root) for run in found for root in run.roots), home().index]
    pushed = push.push(
        desk,
        server,
        previews=Previews(desk.previews, roots=roots, model=arguments.model),
        limit=arguments.limit,
        pictures=arguments.pictures,
        reviewers=arguments.reviewers,
        suggest=arguments.suggest,
    )
    for reason in pushed.refused[:10]:
        print(f"not shown: {reason}", file=sys.stderr)
    if len(pushed.refused) > 10:
        print(f"not shown: {len(pushed.refused) - 10} pairs more", file=sys.stderr)
    print(f"{pushed.tasks} new tasks, {pushed.there} were there, {len(pushed.refused)} pairs cannot be shown")
    return pushed


def _pull(arguments: argparse.Namespace) -> int:
    from feedback.desk import Desk
    from feedback.labelstudio import Server
    from feedback.pull import pull

    desk = Desk()
    url, token = desk.address()
    with Server(url, token=token) as server:
        pulled = pull(desk, server)
    print(
        f"{pulled.answers} answers, {pulled.withdrawn} withdrawn, {pulled.conflicts} pairs on which reviewers disagree"
    )
    return 0


def _answer(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from feedback.desk import Desk
    from feedback.labelstudio import Server
    from feedback.standin import REVIEWER, answer_by_truth

    desk = Desk()
    url, token = desk.address()
    with Server(url, token=token) as server:
        done = answer_by_truth(desk, server, Path(arguments.album))
    print(f"{done} tasks answered by the truth of {arguments.album}, as {REVIEWER}: no person looked at them")
    return 0


def _review(arguments: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from feedback.desk import TOKEN, URL, Desk
    from feedback.labelstudio import Server
    from feedback.review import collect, stopped_by_signals
    from feedback.server import running

    desk, elsewhere = Desk(), bool(os.environ.get(URL))
    with stopped_by_signals(), nullcontext() if elsewhere else running(desk, port=arguments.port) as known:
        url, token = (known["url"], known["token"]) if known else desk.address()
        with Server(url, token=token) as server:
            pushed = push_all(desk, server, arguments)
            print(f"review: {url}/projects/{pushed.project}/data?tab={pushed.view}")
            if known:
                print(f"login:  {known['user']}  password: {known['password']}")
            else:
                print(f"login:  your own; {TOKEN} is of {server.user()}")
            print(f"answers are fetched every {arguments.every:g} s; Ctrl-C ends", flush=True)
            collect(desk, server, every=arguments.every, say=_say)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _status(arguments: argparse.Namespace) -> int:
    from feedback.desk import Desk
    from feedback.status import status, to_html, to_json, to_text

    found = status(Desk())
    if arguments.html:
        to_html(found, arguments.html)
    print(to_json(found) if arguments.json else to_text(found))
    return 0


def _listen(arguments: argparse.Namespace) -> int:
    import uvicorn

    from feedback.desk import Desk
    from feedback.labelstudio import Server
    from feedback.push import open_project
    from feedback.webhook import HEADER, Fetcher, application, secret_of

    desk = Desk()
    url, token = desk.address()
    server, secret = Server(url, token=token), secret_of(desk)
    if arguments.register:
        project, _ = open_project(desk, server)
        server.webhook(project, arguments.register, headers={HEADER: secret})
    print(
        f"listening on http://127.0.0.1:{arguments.port}/events; the secret of {HEADER} is in {desk.root}", flush=True
    )
    with Fetcher(desk, server, every=arguments.every, say=_say) as fetcher:
        app = application(secret, look_at=fetcher.look_at)
        uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")
    return 0
