"""What things cost on this machine: seconds, memory, parameters."""
