"""The approver's web app: what a share link opens, and the way it is reached."""
