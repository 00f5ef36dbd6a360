"""What a run leaves behind: evidence, files, pictures and the last lines on the screen."""
