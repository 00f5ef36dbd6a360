"""What the user gives: task, samples and model, read, checked and cut to fit."""
