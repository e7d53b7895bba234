"""Pure judgement: from what is observed to what is to be done. No I/O, no clock, no logging."""
