"""Fuzzing of every decoder that meets bytes from outside; see docs/fuzzing.md."""
