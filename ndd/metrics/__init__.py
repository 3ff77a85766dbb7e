"""Measures of ranking (`retrieval`) and of decisions (`pairs`)."""
