"""From a config to the objects it describes: the only place that knows both."""
