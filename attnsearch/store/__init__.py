"""What is kept: the database, the files of each trial, and the names of both."""
