"""What an attacker gets out of a plan's updates and models, measured on rows that are known."""
