"""What is tuned for: the bundled tasks, the made-up world that their samples come from, and the reference model."""
