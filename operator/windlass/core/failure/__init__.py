"""Judging failures: what ended a rank or pod, what it costs, what is tried next. Agents use it as well."""
