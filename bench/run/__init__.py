"""Making images: the plan of a run, its tasks, the runner and its engines."""
