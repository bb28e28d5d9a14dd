"""Numbers over the rows of an exam, their confidence intervals, and the metrics of written answers."""
