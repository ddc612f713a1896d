"""What leaves a machine and comes back: statistics, merged runs, bundles, and their check."""
