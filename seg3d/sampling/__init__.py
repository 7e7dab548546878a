"""Which patches an epoch holds, where they lie, and how they reach the network."""
