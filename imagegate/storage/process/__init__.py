"""One process's part in a store: what it waits for, parks, takes up and reports."""
