"""Looking before a run, and at what a number is: doctor, explain, the adapter contract."""
