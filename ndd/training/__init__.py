"""Training without an engine: configuration, edits drawn for an epoch, one step. Ray Train and a plain loop both run it."""
