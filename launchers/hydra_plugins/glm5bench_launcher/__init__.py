"""How Hydra passes a sweep to glm5bench: a sweeper that reads an experiment's arms, and launchers that receive all arms at once."""
