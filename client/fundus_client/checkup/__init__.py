"""What keeps photographs from being scored, and what to do about it: `fundus-client doctor`."""
