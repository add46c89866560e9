"""Other ways to run the segmenter, measured beside a bundle: the table, and how each is loaded."""
