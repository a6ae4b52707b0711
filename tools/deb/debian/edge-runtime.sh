#!/bin/sh
# -I: neither the caller's directory nor its environment decides which code runs
exec /opt/edge-runtime/bin/python3 -I -c 'import sys; from edge_runtime.cli import main; sys.exit(main())' "$@"
