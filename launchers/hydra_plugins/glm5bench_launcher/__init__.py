"""How Hydra hands a sweep over to glm5bench: a sweeper that reads an experiment's arms, launchers that take all of them at once."""
