"""Files of agent sessions: format, checks, facts, conversion from other formats, and generation."""
