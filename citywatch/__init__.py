"""Settings, command line and the embedded stack: the only place that wires the rooms together."""

__version__ = "0.1.0"
