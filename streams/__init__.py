"""The Faust app: partition state, scoring, one commit."""
