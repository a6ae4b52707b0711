"""Serving a graph that somebody else made, instead of a generator that the fleet learns."""

from __future__ import annotations

from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.errors import ConfigError
from edge_runtime.generator import GraphBundle, load_bundle

__all__ = ["serve_packed"]


def serve_packed(workspace: Workspace, path: str) -> GraphBundle:
    """Enter a packed graph into the catalogue and return it; the same one again changes nothing.

    Raises
    ------
    BundleError
        If the file cannot be read or is damaged.
    ConfigError
        If it is not a packed graph, is of another schema, or the data directory belongs to a fleet
        that learns a generator of its own.
    """
    bundle = load_bundle(path)
    if not isinstance(bundle, GraphBundle):
        raise ConfigError(
            f"bundle.packed: {path} is a generator of this project and no packed graph; leave the "
            "key away to train from a census on"
        )
    if bundle.schema.digest != workspace.schema.digest:
        raise ConfigError(f"bundle.packed: {path} was made for another schema than the fleet's")
    made = workspace.catalogue.bundles(status=None)
    if any(record.kind != "sample" for record in workspace.catalogue.rounds()):
        raise ConfigError(
            f"bundle.packed: the fleet of {workspace.data_dir} learns a generator of its own; "
            "give the packed graph a data.dir of its own"
        )
    if not made or made[-1].digest != bundle.digest:
        workspace.add_bundle(bundle, status="published", reason="a packed graph")
    return bundle
