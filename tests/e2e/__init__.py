"""The whole node in its own processes, against real peers."""
