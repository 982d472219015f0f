"""What runs on the other machines, or stands in for them. Imports wire and the rows below it, nothing else."""
