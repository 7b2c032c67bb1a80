"""Parameter graphs for the eye: pictures, and a table for the terminal."""
