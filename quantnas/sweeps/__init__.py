"""Many runs: points that share work, on the cores of a machine or on a Ray cluster."""
