"""What is stored: the database, the files of each trial, and the names of both."""
