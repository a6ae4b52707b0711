"""Attacks on what a device releases, by the device's own code."""
