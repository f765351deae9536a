"""The list of what left this building, each line confirming the ones before."""
