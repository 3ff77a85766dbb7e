"""Settings of the server: frozen, strict, the same from a command line, a production YAML or Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ndd.config import Config, DecodeLimits, FindConfig, check
from ndd.cores import cores
from ndd.home import home

__all__ = ["Limits", "Review", "Settings", "UrlFetching"]


@dataclass(frozen=True, kw_only=True)
class Limits(Config):
    """What one client may cost."""

    body_bytes: int = 48 * 2**20
    """Largest body of a request, counted while it arrives; /v1/batch may send `batch_bytes`."""
    batch_bytes: int = 512 * 2**20
    """Largest body of /v1/batch."""
    batch_items: int = 1000
    """Most items of one batch."""
    image_bytes: int = 32 * 2**20
    """Largest picture file."""
    pixels: int = 100_000_000
    """Largest width × height, read from the header before any pixel is decoded."""
    metadata_bytes: int = 16 * 2**10
    """Largest metadata of a stored picture, as JSON."""
    k: int = 100
    """Most matches of a query."""
    receive_seconds: float = 20.0
    """How long a sender may keep the server waiting for a body, beyond the time that `receive_rate` grants."""
    receive_rate: int = 64 * 2**10
    """Bytes per second that keep a long upload alive."""
    requests_per_second: float = 500.0
    """Requests per second and key, sustained; 0 means no limit."""
    burst: int = 1000
    """Requests that a key may send at once."""

    def __post_init__(self) -> None:
        for name in (
            "body_bytes",
            "batch_bytes",
            "batch_items",
            "image_bytes",
            "pixels",
            "metadata_bytes",
            "k",
            "burst",
        ):
            check(getattr(self, name) >= 1, f"limits.{name} must be positive, got {getattr(self, name)}")
        check(0.1 <= self.receive_seconds <= 30.0, f"limits.receive_seconds lies in 0.1…30, got {self.receive_seconds}")
        check(self.receive_rate >= 1, f"limits.receive_rate must be positive, got {self.receive_rate}")
        check(self.requests_per_second >= 0, f"limits.requests_per_second is 0 or more, got {self.requests_per_second}")

    def decoding(self) -> DecodeLimits:
        """The limits of one picture, for the decoder."""
        return DecodeLimits(max_bytes=self.image_bytes, max_pixels=self.pixels)


@dataclass(frozen=True, kw_only=True)
class UrlFetching(Config):
    """Fetching pictures that a request names by URL. Off: whoever may fetch can make the server call other machines."""

    enabled: bool = False
    schemes: tuple[str, ...] = ("https",)
    """`https`, and `http` where it is asked for."""
    ports: tuple[int, ...] = (80, 443)
    """Ports that may be called."""
    seconds: float = 5.0
    """For the whole fetch, redirects and name look-ups included."""
    redirects: int = 3
    """Most redirects followed; each is checked like the first address."""
    allow: tuple[str, ...] = ()
    """Networks (CIDR) that may be called although they are not public, e.g. an image store inside the cluster."""

    def __post_init__(self) -> None:
        import ipaddress

        check(set(self.schemes) <= {"http", "https"}, f"urls.schemes: http and https only, got {self.schemes}")
        check(self.seconds > 0, f"urls.seconds must be positive, got {self.seconds}")
        check(self.redirects >= 0, f"urls.redirects is 0 or more, got {self.redirects}")
        for network in self.allow:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                check(False, f"urls.allow: {network!r} is no network; write e.g. '10.1.0.0/16'")


@dataclass(frozen=True, kw_only=True)
class Review(Config):
    """Which pairs seen online are put before a person."""

    rate: float = 0.1
    """Share of the uncertain pairs that go to the queue; it becomes the pair's p_draw."""
    low: float = 0.1
    """Scores from `low` …"""
    high: float = 0.99
    """… to `high` are uncertain."""

    def __post_init__(self) -> None:
        check(0.0 <= self.rate <= 1.0, f"review.rate lies in 0…1, got {self.rate}")
        check(0.0 <= self.low <= self.high <= 1.0, f"review wants 0 ≤ low ≤ high ≤ 1, got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """The whole server."""

    model: str | None = None
    """A model directory or a registered model (`models:/ndd@champion`); None: NDD_MODEL, the champion, the shipped one."""
    index: str | None = None
    """Directory of the index; None: `serve` below the indexes of $NDD_HOME. Made when it is not there."""
    new_embedding: Literal["refuse", "migrate"] = "refuse"
    """What happens when a promoted model means something else by its vectors than the index: go on with the model that
    made the index, or embed the kept pictures anew."""
    keep_pictures: bool = True
    """Keep the bytes of added pictures: needed to migrate an index and to show a pair to a person."""
    challenger: str | None = None
    """A second model, scored beside the first on `canary` of the comparisons; both scores are logged."""
    canary: float = 0.0
    """Share of the comparisons that the challenger scores too."""
    watch_seconds: float = 2.0
    """How often the model is looked up again; 0 never."""
    replicas: int = 1
    """Replicas of the server; each does everything in its own process."""
    gpus: float = 0.0
    """GPUs of each replica."""
    threads: int = 0
    """Threads that work on pictures in each replica; 0: one per core."""
    ongoing: int = 256
    """Requests that a replica takes at once; more wait in front of it."""
    queued: int = 1024
    """Requests that may wait in front; more are turned away with 503."""
    keys: str | None = None
    """File of the API keys (`python -m serve keys`); None: `serve/keys.json` in $NDD_HOME where it exists."""
    print_key: bool = True
    """Make a key and print it where neither NDD_KEY nor a file of keys is there. For local use."""
    open_metrics: bool = True
    """Let /metrics be read without a key."""
    find: FindConfig = field(default_factory=FindConfig)
    """How pictures are compared, as of `ndd find`; its `limits` follow from ours."""
    limits: Limits = field(default_factory=Limits)
    urls: UrlFetching = field(default_factory=UrlFetching)
    review: Review = field(default_factory=Review)

    def __post_init__(self) -> None:
        check(0.0 <= self.canary <= 1.0, f"canary lies in 0…1, got {self.canary}")
        check(self.canary == 0.0 or self.challenger is not None, "canary wants a challenger; name a model directory")
        check(self.watch_seconds >= 0, f"watch_seconds is 0 or more, got {self.watch_seconds}")
        for name in ("replicas", "ongoing", "queued"):
            check(getattr(self, name) >= 1, f"{name} must be positive, got {getattr(self, name)}")
        alone = self.new_embedding == "refuse" or self.replicas == 1
        check(alone, "new_embedding=migrate wants replicas=1: several would move the same index at once")
        check(self.threads >= 0, f"threads is 0 or more, got {self.threads}")
        check(self.gpus >= 0, f"gpus is 0 or more, got {self.gpus}")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """From `serve run serve.app:build a=1 limits.k=5` or the `args` of a YAML: dotted names and nested tables both.

        Raises ConfigError naming the setting that is unknown or wrong.
        """
        nested = {name: value for name, value in arguments.items() if isinstance(value, Mapping)}
        flat = {name: value for name, value in arguments.items() if name not in nested}
        values = cls.from_dict(nested).to_dict() if nested else cls().to_dict()
        # A bare name that happens to read as JSON (a directory called `1`) stays text.
        text = {name: f'"{value}"' for name, value in flat.items() if name in _TEXT and isinstance(value, str)}
        return cls.from_dict(values).with_overrides({**flat, **text})

    @property
    def index_path(self) -> Path:
        """Where the index lies."""
        return Path(os.path.abspath(self.index)) if self.index else home().index / "serve"

    @property
    def keys_path(self) -> Path:
        """Where the keys lie."""
        return Path(os.path.abspath(self.keys)) if self.keys else home() / "serve" / "keys.json"

    @property
    def worker_threads(self) -> int:
        """Threads that work on pictures."""
        return self.threads or cores()


_TEXT = ("model", "index", "challenger", "keys")
