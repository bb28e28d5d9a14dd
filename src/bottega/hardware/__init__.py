"""What this machine is and allows: devices, number formats, memory, other programs. No model is known here."""
