"""Generators of other projects, turned into bundles; one package per project."""
