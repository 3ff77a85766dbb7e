"""Settings as frozen, keyword-only dataclasses: strict, documented, hashable.

A configuration is data: `to_dict` and `from_dict` round-trip through JSON, an unknown key or a value of the wrong type
is an error that names the key, and `digest` is stable across processes and versions of Python.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from ndd.errors import ConfigError
from ndd.types import Relation

__all__ = ["Config", "DecodeLimits", "FindConfig", "ModelConfig", "StnConfig", "check", "json_digest"]


def check(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def json_digest(value: object) -> str:
    """sha256 (hex) of the canonical JSON of `value`: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration section."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Build from plain JSON values; `where` is the dotted place named in errors."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where or cls.__name__}: expected a table of settings, got {values!r}")
        hints = typing.get_type_hints(cls)
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                near = ", ".join(sorted(known))
                raise ConfigError(f"{_join(where, key)}: unknown setting; known here: {near}")
        built = {key: _coerce(hints[key], value, _join(where, key)) for key, value in values.items()}
        try:
            return cls(**built)
        except TypeError as error:  # a required field is missing
            raise ConfigError(f"{where or cls.__name__}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict(to_dict())` gives an equal configuration."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain

    def digest(self) -> str:
        """sha256 of the canonical JSON of the settings."""
        return json_digest(self.to_dict())

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """A copy with dotted settings replaced, e.g. {"loss.margin": 0.4}. Strings are read as JSON where they parse."""
        values = self.to_dict()
        for dotted, value in overrides.items():
            *parents, leaf = dotted.split(".")
            at = values
            for name in parents:
                nested = at.get(name)
                if not isinstance(nested, dict):
                    raise ConfigError(f"{dotted}: there is no section {name!r}; known here: {', '.join(sorted(at))}")
                at = nested
            if leaf not in at:
                raise ConfigError(f"{dotted}: unknown setting; known here: {', '.join(sorted(at))}")
            at[leaf] = _from_text(value) if isinstance(value, str) else value
        return type(self).from_dict(values)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against the annotation `hint`, building nested sections; raise ConfigError naming `where`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        failures = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _coerce(option, value, where)
            except ConfigError as error:
                failures.append(str(error))
        raise ConfigError(failures[0])
    if origin is typing.Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: expected one of {', '.join(map(repr, args))}, got {value!r}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        items = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, got {len(value)}")
        return tuple(_coerce(item, v, f"{where}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True)))
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else hint.from_dict(value, where=where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            options = ", ".join(repr(member.value) for member in hint)
            raise ConfigError(f"{where}: expected one of {options}, got {value!r}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


@dataclass(frozen=True, kw_only=True)
class DecodeLimits(Config):
    """What one picture may cost before it is refused."""

    max_bytes: int = 256 * 2**20
    """Largest file read, bytes."""
    max_pixels: int = 200_000_000
    """Largest width × height declared by a header, checked before any pixel is decoded."""
    max_side: int = 65_500
    """Longest side, pixels."""

    def __post_init__(self) -> None:
        check(self.max_bytes > 0, f"max_bytes must be positive, got {self.max_bytes}")
        check(self.max_pixels > 0, f"max_pixels must be positive, got {self.max_pixels}")
        check(self.max_side > 0, f"max_side must be positive, got {self.max_side}")


@dataclass(frozen=True, kw_only=True)
class StnConfig(Config):
    """The spatial transformer (Jaderberg et al. 2015, arXiv:1506.02025)."""

    kind: typing.Literal["none", "affine", "homography", "tps"] = "affine"
    """Family of transforms; `none` is the twin without STN. `tps` (thin-plate spline) uses `control` × `control` points."""
    size: int = 48
    """Side of the low-resolution picture the localization network sees, pixels."""
    width: int = 32
    """Channels of its first convolution; doubled at each of the next two. Moments: of the first on the rings; its attention
    has a third of them, two thirds, and four."""
    localization: typing.Literal["cnn", "polar", "moments"] = "cnn"
    """`cnn` regresses the whole transform, as the paper; `polar` finds the rotation equivariantly, then the rest of it;
    `moments` (affine only) has a frame that follows every affine edit, and finds the rotation in it."""
    angles: int = 48
    """Rotations that are scored (polar, moments; a multiple of 4 makes quarter turns exact)."""
    control: int = 4
    """Control points along a side (tps only)."""
    zoom: float = 0.9
    """Size of the frames, as a share of the picture's: at the start, and what their mean is held to (moments only)."""
    prior: bool = False
    """A network that scores angles learns how often pictures are turned by each of them, and adds that to its scores: what
    does not show which way is up stays as it is. A turned copy of that is then no longer turned back."""
    trust: float = 1.0
    """How much of the prior, where there is one, counts in the choice of the angle: 1 is upright most often, less turns more of
    the turned copies back."""
    second: float = 0.0
    """Side of a second look at the picture, as a share of the first's: in the same frame but turned by the likeliest angle,
    the whole prior included; the features of both looks are averaged. 0 for one look (moments with a prior only)."""

    def __post_init__(self) -> None:
        check(self.size >= 16, f"stn.size must be at least 16 pixels, got {self.size}")
        check(
            self.localization != "polar" or self.size % 2 == 0,
            f"stn.size must be even for stn.localization 'polar', whose rings are taken at half of it too, got {self.size}",
        )
        check(
            self.localization != "moments" or self.size % 4 == 0,
            f"stn.size must be a multiple of 4 for stn.localization 'moments', which halves it twice, got {self.size}",
        )
        check(
            self.localization != "moments" or self.kind in ("none", "affine"),
            f"stn.localization 'moments' has affine frames only, got stn.kind {self.kind!r}",
        )
        check(0.2 <= self.zoom <= 2.0, f"stn.zoom must lie in 0.2…2, got {self.zoom}")
        check(0.0 <= self.trust <= 1.0, f"stn.trust must lie in 0…1, got {self.trust}")
        check(
            self.second == 0 or (0.25 <= self.second <= 1 and self.prior and self.localization == "moments"),
            f"stn.second must be 0, or lie in .25…1 with stn.localization 'moments' and stn.prior, got {self.second}",
        )
        check(self.width >= 4, f"stn.width must be at least 4, got {self.width}")
        check(self.angles >= 8, f"stn.angles must be at least 8, got {self.angles}")
        check(self.control >= 2, f"stn.control must be at least 2, got {self.control}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """STN → backbone → pooling → projection → L2."""

    backbone: typing.Literal["resnet18", "resnet50", "vgg11_bn", "vgg16_bn"] = "resnet18"
    """A torchvision architecture without its classifier."""
    pretrained: bool = False
    """Start from torchvision's ImageNet weights where they can be reached; otherwise from scratch, with a warning."""
    image_size: int = 128
    """Side of the square picture the model sees, pixels (aspect ratio is squashed: the STN can undo it)."""
    dim: int = 256
    """Length of the embedding."""
    pooling: typing.Literal["avg", "gem"] = "gem"
    """`gem` is generalised-mean pooling with a learned power (Radenović et al. 2018, arXiv:1711.02512)."""
    stn: StnConfig = field(default_factory=StnConfig)

    def network(self) -> dict[str, Any]:
        """What the vectors depend on: `to_dict` less settings of other localization networks and what is at rest, so that a
        setting that came later leaves the digests of earlier models as they were."""
        plain = self.to_dict()
        stn = plain["stn"]
        if self.stn.localization != "moments":
            del stn["zoom"]
        if not self.stn.prior:
            del stn["prior"], stn["trust"]
        if not self.stn.second:
            del stn["second"]
        return plain

    def __post_init__(self) -> None:
        check(32 <= self.image_size <= 1024, f"image_size must lie in 32…1024 pixels, got {self.image_size}")
        check(8 <= self.dim <= 4096, f"dim must lie in 8…4096, got {self.dim}")


@dataclass(frozen=True, kw_only=True)
class FindConfig(Config):
    """How duplicates are looked for. The same settings give the same pairs in every runner."""

    relation: Relation = Relation.EDITED
    """The loosest relation that counts as a duplicate."""
    precision: float = 0.99
    """Wanted precision of the accepted pairs: the threshold follows from it (see `ndd.verify.score`)."""
    threshold: float | None = None
    """Score from which pairs are accepted, instead of the one that follows from `precision` (see `ndd.threshold`)."""
    floor: float = 0.01
    """Pairs with a lower score are not written."""
    neighbours: int = 12
    """Nearest descriptors looked at for each picture."""
    max_distance: float = 0.75
    """Largest descriptor distance (1 − cosine) of a candidate."""
    hash_bits: int = 40
    """Largest Hamming distance of two perceptual hashes (of 256 bits) that makes a candidate by itself."""
    verify: typing.Literal["none", "keypoints"] = "keypoints"
    """`keypoints`: SIFT + RANSAC on candidates that the descriptor does not settle. `none`: descriptor and hash only."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def __post_init__(self) -> None:
        check(0.0 < self.precision < 1.0, f"precision must lie between 0 and 1, got {self.precision}")
        check(
            self.threshold is None or 0.0 <= self.threshold <= 1.0, f"threshold must lie in 0…1, got {self.threshold}"
        )
        check(0.0 <= self.floor <= 1.0, f"floor must lie in 0…1, got {self.floor}")
        check(self.neighbours >= 1, f"neighbours must be at least 1, got {self.neighbours}")
        check(0.0 < self.max_distance <= 2.0, f"max_distance must lie in 0…2, got {self.max_distance}")
        check(0 <= self.hash_bits <= 128, f"hash_bits must lie in 0…128, got {self.hash_bits}")
