"""What is asked of the tables of a store, and written into them. SQLAlchemy Core."""
