"""Online service on Ray Serve: is this picture already there, and what are these two to each other."""
