"""`make bench-faults`: one run disturbed hundreds of times at random, and what is to be true after each time."""
