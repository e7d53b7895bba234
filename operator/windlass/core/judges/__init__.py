"""The judges that the chain asks in order. Each looks at the facts and either says what to do or passes."""
