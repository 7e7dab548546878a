"""The benchmark beside other toolkits: ``make bench``, or ``python -m benchmarks.peers`` where they are installed."""
