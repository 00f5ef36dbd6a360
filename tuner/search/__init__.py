"""Where to look: the space, its profile, known methods, and the study that tries them."""
