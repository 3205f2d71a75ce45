"""How fast it is on this machine, and where memory and time go."""
