"""What this machine is and allows: devices, dtypes, memory, other programs, process settings. Knows no models."""
