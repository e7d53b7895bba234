"""Effects: the only place for kopf, the API client, the network, the clock and the environment."""
