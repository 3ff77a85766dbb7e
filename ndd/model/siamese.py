"""One branch of the Siamese network; the other branch is the same weights applied to the other picture.

STN → backbone → pooling → projection → L2. Shapes: B pictures, S × S pixels, D = `config.dim`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ndd.config import ModelConfig
from ndd.model.backbones import make_backbone
from ndd.model.pooling import make_pooling
from ndd.model.stn import Pose, SpatialTransformer

__all__ = ["Embedding", "SiameseEmbedder"]


class Embedding(nn.Module):
    """Projection of the pooled features to D numbers of unit length."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dim)

    def forward(self, pooled_BC: Tensor) -> Tensor:
        return F.normalize(self.project(pooled_BC).float(), dim=1)


class SiameseEmbedder(nn.Module):
    """Picture → L2-normalised embedding.

    With `stn.kind = "none"` the transformer is left out and nothing else differs: the twin it is measured against.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.stn = None if config.stn.kind == "none" else SpatialTransformer(config.stn)
        self.backbone = make_backbone(config.backbone, pretrained=config.pretrained)
        self.pooling = make_pooling(config.pooling)
        self.head = Embedding(self.backbone.channels, config.dim)

    def forward(self, x_B3SS: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] → (B, D), unit length."""
        embedding, _ = self.embed_with_pose(x_B3SS)
        return embedding

    def embed_with_pose(self, x_B3SS: Tensor, *, into_stn: bool = True) -> tuple[Tensor, Pose | None]:
        """Embedding (B, D) and the pose that the STN undid; None without an STN. No gradient of the embedding reaches the
        STN unless `into_stn`."""
        pooled, pose = self._pooled(x_B3SS, into_stn=into_stn)
        vector: Tensor = self.head(pooled)
        return vector, pose

    def pooled(self, x_B3SS: Tensor) -> Tensor:
        """(B, C): what the projection sees."""
        return self._pooled(x_B3SS, into_stn=True)[0]

    def _pooled(self, x_B3SS: Tensor, *, into_stn: bool) -> tuple[Tensor, Pose | None]:
        if self.stn is None:
            return self.pooling(self.backbone(x_B3SS)), None
        pose = self.stn.predict(x_B3SS)
        seen = pose if into_stn else Pose(*(part.detach() for part in pose))
        looks = [self.pooling(self.backbone(look)) for look in self.stn.looks(x_B3SS, seen)]
        # Averaged before the projection: whitening can then be folded into it, and two looks that change places are the same.
        return torch.stack(looks).mean(dim=0) if len(looks) > 1 else looks[0], pose

    @property
    def looks(self) -> int:
        """How many poses of a picture the descriptor is made of."""
        return 1 if self.stn is None or not self.stn.second else 2

    @torch.no_grad()
    def align(self, x_B3SS: Tensor, *, look: int = -1) -> tuple[Tensor, Tensor]:
        """What the STN makes of the pictures: (warped (B, 3, S, S), corners of the canonical frame (B, 4, 2) in [-1, 1]).

        look: where there are two, 0 for the one that turns with the picture, the last for the upright one.
        """
        if self.stn is None:
            frame = x_B3SS.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
            return x_B3SS, frame.expand(x_B3SS.shape[0], 4, 2)
        pose = self.stn.poses(self.stn.predict(x_B3SS))[look]
        return self.stn.warp(x_B3SS, pose.theta, pose.angle), self.stn.corners(pose.theta, pose.angle)
