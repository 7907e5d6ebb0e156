"""The built-in attackers of `llama3 redteam`."""
