"""The sorted folder: decided files by label, their masks, and the journal of decisions."""
