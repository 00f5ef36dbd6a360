"""What ranks a token: one rule, one file (or one of a kind), and one row in `catalogue`. Free of torch at import."""
