"""The records, rules and words everybody shares. Standard library only."""
