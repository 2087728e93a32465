"""The load of agent sessions: what is sent, when, and what the prefix cache had of it. Built on the load client."""
