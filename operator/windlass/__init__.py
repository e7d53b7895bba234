"""Windlass: the operator side. Layers, from pure to effects: api, core, shell, cli."""
