"""The other members, as seen from here: addresses, greetings, standing."""
