"""Many runs: a search for better options, and the report of 2020 again."""
