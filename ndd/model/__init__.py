"""The network: spatial transformer → backbone → pooling → projection → L2-normalised embedding."""
