"""The life of a task: record, store, blobs, queue, runner and housekeeping."""
