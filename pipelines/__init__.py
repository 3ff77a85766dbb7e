"""Batch work on Ray, local or on a cluster: ingest, train, embed, find, and the demo."""
