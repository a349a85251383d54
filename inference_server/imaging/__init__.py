"""Arrays, geometry and file formats. Knows nothing of tasks, models or HTTP."""
