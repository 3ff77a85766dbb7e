"""What Ray's gRPC ingress would save: the same bytes there and back over HTTP and over gRPC, through one proxy to one replica.

The replica does nothing, so what is measured is the way. Ray 2.60 binds its gRPC ingress to all interfaces, whatever
`http_options.host` says, and asks for no key; for the measurement it is bound to loopback (`inside`).

python -m pipelines.bench_serve_grpc HTTP-PORT GRPC-PORT     the server; ends with its standard input
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from ndd.errors import NddError
from pipelines.bench_serve_load import Call, Seen, load, together
from pipelines.ports import free_ports

__all__ = ["add_echo", "inside", "main", "measure"]

_METHOD = "/ndd.Echo/Echo"
_SIZES = {"empty": 0, "two pictures": 120_000}
_MANY = 32
_START_SECONDS = 180.0


def measure(*, seconds: float, rounds: int) -> dict[str, Any]:
    """Way → size and clients → figures. seconds: of each measurement in each round; the ways take turns."""
    seen: dict[tuple[str, str], Seen] = {}
    with _served() as (http_port, grpc_port):
        for _ in range(rounds):
            for name, size in _SIZES.items():
                body = os.urandom(size)
                for clients in (1, _MANY):
                    what = f"{name}, {clients} clients" if clients > 1 else name
                    calls = [Call(method="POST", path="/", body=body)]
                    found = load(http_port, calls, clients=clients, seconds=seconds)
                    seen.setdefault(("http", what), Seen()).merge(found)
                    found = _load_grpc(grpc_port, body, clients=clients, seconds=seconds)
                    seen.setdefault(("grpc", what), Seen()).merge(found)
    ways = dict.fromkeys(way for way, _ in seen)
    return {way: {what: of.figures() for (w, what), of in seen.items() if w == way} for way in ways}


def inside() -> list[Any]:
    """Called by Ray in its proxy before the proxy opens ports: gRPC on loopback. Returns no middleware."""
    from ray.serve._private import default_impl

    plain: Any = default_impl.add_grpc_address

    def bound(server: Any, address: str) -> None:
        plain(server, address.replace("[::]:", "127.0.0.1:", 1))

    vars(default_impl)["add_grpc_address"] = bound
    return []


def add_echo(servicer: Any, server: Any) -> None:
    """Register the one method; bytes as they are, since a schema would only add to the way."""
    import grpc  # type: ignore[import-untyped]

    handler = grpc.unary_unary_rpc_method_handler(servicer.Echo, request_deserializer=None, response_serializer=None)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ndd.Echo", {"Echo": handler}),))


def main(http_port: int, grpc_port: int) -> None:
    """Serve until standard input ends."""
    os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "pipelines.bench_serve_grpc:inside"
    from pipelines.session import ray_session

    with ray_session(workers=2):
        from ray import serve

        from pipelines.bench_serve_echo import Echo

        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": http_port},
            grpc_options={"port": grpc_port, "grpc_servicer_functions": ["pipelines.bench_serve_grpc:add_echo"]},
        )
        options: dict[str, Any] = {"max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0}}
        serve.run(serve.deployment(**options)(Echo).bind(), route_prefix="/")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
        serve.shutdown()


@contextlib.contextmanager
def _served() -> Iterator[tuple[int, int]]:
    ports = free_ports(2)
    command = [sys.executable, "-m", "pipelines.bench_serve_grpc", *map(str, ports)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(_START_SECONDS, server.terminate)
    timer.start()
    try:
        assert server.stdin is not None and server.stdout is not None
        if not any("ready" in line for line in server.stdout):
            raise NddError(f"the server of bench serve --only grpc ended without a word: {' '.join(command)}")
        timer.cancel()
        yield ports[0], ports[1]
    finally:
        timer.cancel()
        server.communicate()


def _load_grpc(port: int, body: bytes, *, clients: int, seconds: float) -> Seen:
    """As `load`: each client sends the next as soon as it has its answer."""
    import grpc

    seen, mutex = Seen(), threading.Lock()
    start = time.perf_counter()

    def client() -> None:
        # Channels to one address share a connection unless told otherwise.
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            send = channel.unary_unary(_METHOD)
            while time.perf_counter() < start + seconds:
                began = time.perf_counter()
                try:
                    status = 200 if send(body, timeout=60) == body else 500
                except grpc.RpcError:
                    status = 0
                took = time.perf_counter() - began
                with mutex:
                    seen.latencies.append(took)
                    seen.statuses[status] = seen.statuses.get(status, 0) + 1

    together(client, clients)
    seen.seconds = time.perf_counter() - start
    return seen


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
