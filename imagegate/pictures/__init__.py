"""Images, previews and masks, and the files they are kept in."""
