"""Looking between the blocks of a graph: what must be there, and what runs it on each backend."""
