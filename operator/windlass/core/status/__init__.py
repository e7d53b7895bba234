"""The meaning of status: conditions, progress and every sentence that users read."""
