"""Turns a fleet of small ARM devices into one private source of synthetic data.

Every device learns a generator from rows that never leave it, publishes differentially private
synthetic rows and update summaries over MQTT, and an aggregator fuses them into one generator
that does not collapse.
"""

from __future__ import annotations

__version__ = "0.1.0"
