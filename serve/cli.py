"""`python -m serve [run] [NAME=VALUE …]` and `python -m serve keys …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ndd.cli import guarded
from ndd.errors import UsageError
from serve.auth import SCOPES, load_keys, make_key, new_secret, save_keys
from serve.settings import Settings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: int(arguments.run(arguments)), program="serve")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serve", description="The duplicate scorer online, on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve on this machine until Ctrl-C")
    run.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="as of `serve run serve.app:build`")
    run.add_argument("--port", type=int, default=8000)
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    run.add_argument("--logs", action="store_true", help="show what the replicas log")
    run.set_defaults(run=_run)
    keys = commands.add_parser("keys", help="make, list or remove API keys")
    keys.add_argument("action", choices=("add", "list", "remove"))
    keys.add_argument("name", nargs="?", default="")
    keys.add_argument("--scopes", default="read", help=f"comma-separated choice of {', '.join(SCOPES)} (read)")
    keys.add_argument("--file", default=None, help="file of keys (serve/keys.json in $NDD_HOME)")
    keys.set_defaults(run=_keys)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    pairs = {}
    for text in arguments.settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text}: settings are written NAME=VALUE")
        pairs[name] = value
    from serve.local import serve_here, wait_for_end

    settings = Settings.of(pairs)
    if not os.environ.get("NDD_KEY") and not load_keys(settings.keys_path):
        os.environ["NDD_KEY"] = new_secret()
        print(f"API key (made for this run; set NDD_KEY to choose one): {os.environ['NDD_KEY']}", flush=True)
    with serve_here(pairs, host=arguments.host, port=arguments.port, logs=arguments.logs):
        print(f"Serving on http://{arguments.host}:{arguments.port}/ (Ctrl-C ends it)", flush=True)
        wait_for_end()
    return 0


def _keys(arguments: argparse.Namespace) -> int:
    path = Settings(keys=arguments.file).keys_path
    keys = load_keys(path)
    if arguments.action == "list":
        for key in keys:
            print(f"{key.name}\t{','.join(key.scopes)}")
        return 0
    if not arguments.name:
        raise UsageError(f"keys {arguments.action}: name the key")
    known = any(key.name == arguments.name for key in keys)
    if arguments.action == "remove":
        if not known:
            raise UsageError(f"{arguments.name}: no key of that name in {path}")
        save_keys(path, [key for key in keys if key.name != arguments.name])
        return 0
    if known:
        raise UsageError(f"{arguments.name}: there is a key of that name in {path}; remove it first")
    secret = new_secret()
    scopes = arguments.scopes.split(",")
    save_keys(path, [*keys, make_key(secret, name=arguments.name, scopes=scopes)])
    print(secret)
    sys.stderr.write("Shown once: only its hash is kept.\n")
    return 0
