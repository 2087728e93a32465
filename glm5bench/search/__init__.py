"""Chooses the points of a campaign, so that a question is answered with few node-hours."""
