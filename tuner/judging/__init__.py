"""Is it true? Choosing on samples that the search has not seen, proving on samples that nobody has."""
