"""What a cache holds of one decoder layer, and when it lets go of it."""
