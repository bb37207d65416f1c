"""The lab: what a reader sees and touches."""
