"""Evidence that the error bars hold: coverage, simulation-based calibration, rates of alarms; `make validate`."""
