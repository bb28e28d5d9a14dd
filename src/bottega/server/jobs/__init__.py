"""Fine-tuning jobs: their rows, their recipes, the process of each, and who starts and watches it."""
