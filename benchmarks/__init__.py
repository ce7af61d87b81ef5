"""Measurements side by side with IPython Parallel: ``python -m benchmarks`` (or ``make bench``)."""
