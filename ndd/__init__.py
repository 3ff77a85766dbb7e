"""Near-duplicate image detection that learns: embed, verify, group."""
