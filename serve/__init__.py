"""Online service on Ray Serve. It comes in a later release: nothing is in here yet."""
