"""The agent: PID 1 of a training pod. It owns the ranks of its pod; the agent of pod 0 leads the gang.

Standard library and pydantic only, no torch: it starts in a fraction of a second. `channel` and `child`
run inside ranks, `warm` in the warm parent that ranks are forked from, the rest in the agent itself.
`gang` and what it imports is pure: events in, commands out.
"""
