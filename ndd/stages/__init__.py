"""The steps of a search as plain callables over batches; the single-process runner and Ray Data compose the same ones.

A batch is a dict of columns of equal length. Nothing here knows which runner calls it.
"""
